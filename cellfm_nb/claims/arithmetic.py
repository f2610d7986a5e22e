"""Claims that multiplication can test: hours of labelling, bytes of resampling and of prototypes, speed of training.

Every function takes the stated numbers as arguments, so that a reader can put in their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GIB = 2**30
TOKEN_FLOPS = 24  # times D^2, per block and token: 12 D^2 weights, a multiplication and an addition each


def labelling_hours(frames: int, objects: float, planes: float, seconds: float = 10.0) -> float:
    """Return the hours that hand outlines take (A02): one of `seconds` for each object, in each plane, in each frame.

    planes: 1 when an object is marked once in 3D.
    """
    return frames * objects * planes * seconds / 3600


def resampling_gib(shape: Sequence[int], factors: Sequence[float], itemsize: int = 4) -> dict[str, float]:
    """Return the memory of making a volume isotropic by linear interpolation (A08), in GiB.

    Parameters: shape (z, y, x) voxels; factors, by which each axis grows; itemsize, bytes of a number.
    Returns: "gathered", where every new voxel fetches its eight neighbours at once (a value, a weight and three 64-bit
    indices each); "in one piece", input and output and nothing else.
    """
    before = float(np.prod(shape))
    after = float(np.prod([round(n * f) for n, f in zip(shape, factors, strict=True)]))
    return {"gathered": after * 8 * (2 * itemsize + 3 * 8) / GIB, "in one piece": (before + after) * itemsize / GIB}


def prototype_gib(prototypes: int, tokens: int, width: int = 256, heads: int = 1, copies: int = 3) -> dict[str, float]:
    """Return what a layer of prototypes costs in training, in GiB of float32 (A14).

    Parameters: prototypes; tokens, rows that are compared with them in one step on one device; width of a prototype;
    heads, layers of prototypes (DINO and iBOT, or one for both); copies, tables of logits alive at the same time
    (the student's, its softmax or gradient, the teacher's).
    Returns: "weights" (student, teacher, gradient, two moments of Adam), "logits", "all".
    """
    weights, logits = 5 * 4 * heads * prototypes * width / GIB, 4 * copies * prototypes * tokens / GIB
    return {"weights": weights, "logits": logits, "all": weights + logits}


def masked_tokens(volumes: int, side: int, ratio: tuple[float, float] = (0.15, 0.5), share: float = 0.5) -> int:
    """Return how many tokens of `volumes` cubes of side^3 tokens are hidden in a step, on average."""
    return round(volumes * share * side**3 * sum(ratio) / 2)


def volume_tflop(width: int = 384, depth: int = 12, sides: Sequence[int] = (14, 6),
                 views: Sequence[int] = (2, 8)) -> float:
    """Return the operations of training on one volume, in 1e12 (A44): student forward and backward, teacher forward.

    Parameters: width D and depth of the encoder; sides, tokens along an edge of a global and a local view; views, how
    many of each. Counted: 24 D^2 a block and token, and 4 D a pair of tokens; backward is twice forward; the teacher
    sees the global views only. Heads are left out.
    """
    tokens = [side**3 for side in sides]
    forward = [n * v * depth * (TOKEN_FLOPS * width**2 + 4 * n * width) for n, v in zip(tokens, views, strict=True)]
    return (3 * sum(forward) + forward[0]) / 1e12


def training_rates(steps: int = 250_000, batch: int = 336, days: float = 4.0, devices: int = 24,
                   peak_tflop_s: float = 312.0, stored_bytes: float = 2.4e12,
                   stored: int = 180_000) -> dict[str, float]:
    """Return what the stated training means per second (A44).

    Parameters: steps, batch, days, devices, as stated; peak_tflop_s of one device (A100, bfloat16, dense);
    stored_bytes, stored: size and number of the volumes on disk.
    Returns: "volumes/s", "epochs", "GB/s" (each volume read whole for each sample), "share of peak".
    """
    rate = steps * batch / (days * 86_400)
    return {"volumes/s": rate, "epochs": steps * batch / stored, "GB/s": rate * stored_bytes / stored / 1e9,
            "share of peak": rate * volume_tflop() / (devices * peak_tflop_s)}
