"""The alarm: which block holds a singular defect, and which tokens it hits.

Found directions prove nothing, every matrix has a strongest one. A block alarms when two signs come together: in one
of its weights a singular value stands alone, and what that value writes lengthens background tokens. The second sign
is measured, not guessed: the block is run with and without it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cellfm_nb.errors import InputError
from cellfm_nb.repair.neighbours import Grid, interior
from cellfm_nb.repair.spectrum import GAP, check_encoder, clip_spectrum, gaps

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder

HIT = 0.5  # a token is hit when what stands alone adds more than this share of its length


@torch.no_grad()
def block_inputs(encoder: Encoder, volume: np.ndarray) -> tuple[list[Tensor], Tensor | None, Grid]:
    """Return what enters each block and what leaves the last, (1, P + N, D) each, the angles of positions, the grid.

    Parameters: encoder; volume (z, y, x), normalised. P tokens of the prefix (CLS, registers) come first.
    """
    seen, training = [], encoder.training
    hooks = [block.register_forward_hook(lambda _, given, out: seen.append((*given, out))) for block in encoder.blocks]
    try:
        x = torch.from_numpy(np.asarray(volume, np.float32)).to(next(encoder.parameters()))
        grid = encoder.eval()(x[None, None]).grid
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    return [given[0] for given in seen] + [seen[-1][-1]], seen[0][1], grid


def trace(encoder: Encoder, volume: np.ndarray) -> tuple[list[Tensor], Grid]:
    """Return the patch tokens (N, D) that enter the first block and leave each one for a volume (z, y, x); the grid."""
    states, _, grid = block_inputs(encoder, volume)
    return [state[0, 1 + encoder.config.registers:] for state in states], grid


@torch.no_grad()
def detect(encoder: Encoder, volumes: Sequence[np.ndarray]) -> pd.DataFrame:
    """Look for singular defects in each block.

    Parameters: encoder; volumes (z, y, x), normalised, at the encoder's spacing.
    Returns: one row per block: block; weight, the one (value | output | fc1 | fc2) with the widest gap; gap, that gap,
    s_i / s_(i+1); growth, 99th percentile over background tokens of the norm after the block over the norm at the
    stem; excess, 99.9th percentile over background tokens (known defects hit one in a hundred) of the length that what
    stands alone adds, over the token's length without it (0 where the gap is at most 5); flagged, share of tokens for
    which that is over 0.5; alarm, gap over 5 and excess over 0.5.
    Background tokens are those whose norm at the stem is not in the upper quarter.
    Raises: InputError for blocks of another shape, weights that are not finite, no volumes.
    """
    check_encoder(encoder)
    if not len(volumes):
        raise InputError("there is no volume to look at", where="detect", expected="one volume (z, y, x) or more")
    rows = []
    widest = [max(gaps(block).items(), key=lambda item: item[1]) for block in encoder.blocks]
    without = {i: copy.deepcopy(block).eval() for i, block in enumerate(encoder.blocks) if widest[i][1] > GAP}
    for block in without.values():
        clip_spectrum(block)
    growth, excess = [[] for _ in widest], [[] for _ in widest]
    first = 1 + encoder.config.registers
    quiet = []
    for volume in volumes:
        states, angles, _ = block_inputs(encoder, volume)
        length = states[0][0, first:].norm(dim=1)
        quiet.append(length <= length.quantile(0.75))
        for i, (before, after) in enumerate(zip(states, states[1:], strict=False)):
            growth[i].append(after[0, first:].norm(dim=1) / length.clamp_min(1e-6))
            if i in without:
                calm = without[i](before, angles)
                excess[i].append(((after - calm)[0].norm(dim=1) / calm[0].norm(dim=1).clamp_min(1e-6))[first:])
    quiet = torch.cat(quiet)
    for i, (weight, gap) in enumerate(widest):
        added = torch.cat(excess[i]) if i in without else torch.zeros(len(quiet))
        rows.append({"block": i, "weight": weight, "gap": gap,
                     "growth": float(torch.cat(growth[i])[quiet].quantile(0.99)),
                     "excess": float(added[quiet.to(added.device)].quantile(0.999)),
                     "flagged": float((added > HIT).float().mean())})
    table = pd.DataFrame(rows)
    return table.assign(alarm=(table["gap"] > GAP) & (table["excess"] > HIT))


def anomaly_map(tokens: Tensor, grid: Grid, direction: Tensor) -> np.ndarray:
    """Return |cos| of each token (N, D) with a direction (D,) on its grid (z, y, x), 0 on the border; float32."""
    cosine = torch.nn.functional.cosine_similarity(tokens, direction.to(tokens), dim=-1).abs()
    return (cosine.cpu() * interior(grid)).reshape(grid).float().numpy()
