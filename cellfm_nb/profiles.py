"""Every size and step count of the collection, in one typed place: tiny | workshop | full.

tiny runs on two CPU cores in minutes, workshop on one GPU in an afternoon, full at the published size.
A notebook asks for its stage's settings and may override each of them in its parameters cell.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from cellfm_nb.errors import InputError

NAMES = ("tiny", "workshop", "full")


@dataclass(frozen=True)
class Movie:
    """The default movie, simulated: frames, (z, y, x) voxels, spacing in um, puncta at the start, median SNR."""

    n_frames: int = 20
    shape: tuple[int, int, int] = (40, 144, 144)
    spacing_um: tuple[float, float, float] = (0.25, 0.1, 0.1)
    dt_s: float = 2.0
    n_puncta: int = 56
    snr: float = 4.0


@dataclass(frozen=True)
class Curate:
    """Crops for pretraining: (z, y, x) voxels of one crop, how many in all."""

    crop_shape: tuple[int, int, int] = (24, 64, 64)
    n_crops: int = 192


@dataclass(frozen=True)
class Pretrain:
    """The encoder and its training; the weights of the losses are those that teach in minutes (tiny) or in days."""

    width: int = 128
    depth: int = 3
    heads: int = 4
    patch: tuple[int, int, int] = (4, 8, 8)
    layer_scale: float = 1.0
    steps: int = 320
    batch: int = 4
    lr: float = 2e-3
    prototypes: int = 128
    global_shape: tuple[int, int, int] = (16, 32, 32)
    local_shape: tuple[int, int, int] = (8, 16, 16)
    n_local: int = 2
    dino: float = 0.1
    ibot: float = 0.3
    koleo: float = 0.01
    redundancy: float = 0.01
    ema: float = 0.98
    teacher_temp_start: float = 0.03
    teacher_temp: float = 0.03
    probe_every: int = 80


LONG = {"n_local": 8, "dino": 1.0, "ibot": 1.0, "koleo": 0.1, "redundancy": 0.0, "ema": 0.994,
        "teacher_temp_start": 0.04, "teacher_temp": 0.07, "probe_every": 500}  # as published for long runs
TINY = {"movie": Movie(), "curate": Curate(), "pretrain": Pretrain()}
PROFILES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "workshop": {
        "movie": Movie(n_frames=60, shape=(64, 256, 256), n_puncta=200),
        "curate": Curate(n_crops=4096),
        "pretrain": Pretrain(width=384, depth=6, heads=6, steps=20_000, batch=64, lr=1e-3, prototypes=4096,
                             layer_scale=0.1, **LONG),
    },
    "full": {
        "movie": Movie(n_frames=100, shape=(96, 512, 512), n_puncta=600),
        "curate": Curate(crop_shape=(56, 144, 144), n_crops=180_000),
        "pretrain": Pretrain(width=384, depth=12, heads=6, steps=250_000, batch=336, lr=2.6e-4, prototypes=32_768,
                             layer_scale=1e-5, global_shape=(56, 112, 112), local_shape=(24, 48, 48), **LONG),
    },
}  # fmt: skip


def check(profile: str) -> None:
    """Raise InputError unless the profile exists."""
    if profile not in NAMES:
        raise InputError("Unknown profile.", got=repr(profile), expected=", ".join(NAMES), do="Choose one of them.")


def trainable(profile: str, shape: tuple[int, int, int], where: object = "the movie") -> bool:
    """Say whether volumes (z, y, x) are as deep as the smallest crop that an encoder is trained on.

    Raises InputError when they are narrower than that crop along y or x.
    """
    least = settings(profile, "pretrain").global_shape
    if any(size < need for size, need in zip(shape[1:], least[1:], strict=True)):
        raise InputError("The volume is smaller than a crop.", where=where, got=f"{tuple(shape)} voxels (z, y, x)",
                         expected=f"at least {least}", do="Use a larger volume, or a profile with smaller crops.")
    return shape[0] >= least[0]


def settings(profile: str, stage: str, **overrides: Any) -> Any:
    """Return the settings of a stage in a profile.

    Parameters: profile, stage ("movie", "curate", "pretrain"); overrides, fields to replace, None keeps the profile's.
    Returns: a frozen dataclass. Raises InputError on an unknown profile, stage or field.
    """
    check(profile)
    if stage not in PROFILES[profile]:
        raise InputError("Unknown stage.", got=repr(stage), expected=", ".join(PROFILES[profile]), do="Choose one.")
    base = PROFILES[profile][stage]
    known = {f.name for f in dataclasses.fields(base)}
    if unknown := set(overrides) - known:
        raise InputError(f"Unknown setting of {stage}.", got=", ".join(sorted(unknown)),
                         expected=", ".join(sorted(known)), do="Check the spelling.")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items() if v is not None}
    return dataclasses.replace(base, **given)


def table() -> Any:
    """Return every setting of every profile as a DataFrame: stage, setting, tiny, workshop, full."""
    import pandas as pd

    rows = [{"stage": stage, "setting": f.name, **{p: str(getattr(PROFILES[p][stage], f.name)) for p in NAMES}}
            for stage in TINY for f in dataclasses.fields(TINY[stage])]
    return pd.DataFrame(rows)
