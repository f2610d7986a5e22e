"""What each setting means: its unit, the range that makes sense, and one line of help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cellfm_nb.errors import InputError


@dataclass(frozen=True)
class Setting:
    """One setting: help; unit, "" where it has none; low and high, both allowed, None where nothing bounds it."""

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def range(self) -> str:
        """Say the range with its unit, "" where there is none to say."""
        limits = (self.low, self.high)
        low, high = (None if v is None else f"{v:,}" if isinstance(v, int) else f"{v:,g}" for v in limits)
        said = f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}" if high else ""
        return " ".join(part for part in (said, self.unit) if part)


SCHEMA = {
    # the simulated movie
    "n_frames": Setting("frames of the movie", "frames", 1),
    "shape": Setting("size of a frame (z, y, x)", "voxels", 1),
    "spacing_um": Setting("distance between voxels (z, y, x)", "um", 1e-3, 100),
    "dt_s": Setting("time between frames", "s", 1e-6),
    "n_puncta": Setting("puncta at the start", "", 0),
    "snr": Setting("median peak over the noise", "", 0),
    # crops
    "crop_shape": Setting("size of a crop (z, y, x)", "voxels", 4),
    "n_crops": Setting("crops in all", "", 1),
    "stack_share": Setting("share of the crops taken from the real stack", "", 0, 1),
    # encoder and training
    "width": Setting("numbers per token", "", 8),
    "depth": Setting("transformer blocks", "", 1),
    "heads": Setting("attention heads; they divide the width", "", 1),
    "patch": Setting("size of a patch (z, y, x)", "voxels", 1),
    "layer_scale": Setting("how much a block adds at the start", "", 0, 1),
    "steps": Setting("optimiser steps", "", 1),
    "batch": Setting("crops per step", "", 1),
    "lr": Setting("peak learning rate", "", 0, 1),
    "prototypes": Setting("outputs of the projection heads", "", 2),
    "global_shape": Setting("size of a global view (z, y, x)", "voxels", 4),
    "local_shape": Setting("size of a local view (z, y, x)", "voxels", 4),
    "n_local": Setting("local views per crop", "", 0),
    "dino": Setting("weight of the loss of whole views", "", 0),
    "ibot": Setting("weight of the loss of hidden patches", "", 0),
    "koleo": Setting("weight of the loss that spreads descriptors", "", 0),
    "redundancy": Setting("weight of the loss that keeps dimensions from repeating each other", "", 0),
    "ema": Setting("how much of the teacher stays at a step", "", 0, 1),
    "teacher_temp_start": Setting("teacher's temperature at the start", "", 1e-3, 1),
    "teacher_temp": Setting("teacher's temperature after warm-up", "", 1e-3, 1),
    "probe_every": Setting("steps between two probes", "steps", 1),
    "ablation_steps": Setting("steps each variant is trained for", "steps", 1),
    # the notebooks' own
    "seed": Setting("one seed for all randomness", "", 0, 2**32 - 1),
    "channel": Setting("channel of the movie, from 0", "", 0),
    "frame": Setting("frame of the movie, from 0", "", 0),
    "strength": Setting("size of the planted defect", "token norms", 0),
    "components": Setting("principal components kept", "", 1),
    "sigma_um": Setting("standard deviations of the PSF (z, y, x)", "um", 1e-3, 100),
    "fdr": Setting("accepted share of false objects", "", 1e-6, 0.999),
    "max_gap_frames": Setting("a track may go unseen for so long", "frames", 0),
    "distance_um": Setting("a found position this near a true one is a match", "um", 1e-3),
    "event_frames": Setting("an event may be early or late by so many", "frames", 0),
    "own_spacing_um": Setting("distance between voxels (z, y, x)", "um", 1e-3, 100),
    "own_dt_s": Setting("time between frames", "s", 1e-6),
    "target_um": Setting("one spacing for all movies (z, y, x)", "um", 1e-3, 100),
    "workers": Setting("processes; 0: none beside this one", "", 0),
}


def check_range(name: str, value: Any, where: object = "") -> None:
    """Raise InputError when a number, or one of several, lies outside the range of a setting; others pass."""
    setting = SCHEMA.get(name)
    numbers = value if isinstance(value, list | tuple) else [value]
    for number in numbers:
        if setting is None or isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not (setting.low is None or number >= setting.low) or not (setting.high is None or number <= setting.high):
            raise InputError(f"{name} is out of its range.", where=where, got=number, expected=setting.range(),
                             do=f"It is: {setting.help}.")
