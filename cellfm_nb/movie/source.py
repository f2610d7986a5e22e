"""What a reader hands over: data that is not loaded, and what the file says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RAW_SCAN, DESKEWED = "a raw stage scan", "deskewed"  # how the notes begin that say so; files keep notes


@dataclass
class Source:
    """What a reader found: lazy data, the names of its axes, spacing in um per axis, interval in s, and who says so.

    A reader turns the file's own words into micrometre and second, and guesses nothing without a note.
    """

    data: Any
    axes: str
    says: str  # who states spacing and interval: "OME-XML", "ImageJ tags", "OME-Zarr 0.5"
    spacing_um: dict[str, float] = field(default_factory=dict)  # only the axes the file states
    dt_s: float | None = None
    notes: list[str] = field(default_factory=list)
    name: str = ""
    channel_names: tuple[str, ...] = ()  # empty when the file names none
    axes_source: str = "file"  # "file", "given", "guessed", "file names"
    dt_says: str = ""  # who states the interval, where it is not `says`
    channel_says: str = ""  # who names the channels, where it is not `says`


class Lazy:
    """An array of a reader that is not loaded; it is asked with one slice per axis, in the order of its axes."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype, self.ndim = tuple(shape), np.dtype(dtype), len(shape)


class Planes(Lazy):
    """A lazy (t, c, z, y, x) array made of a function that reads one plane: t, c, z -> (y, x)."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, plane: Callable[[int, int, int], np.ndarray]) -> None:
        super().__init__(shape, dtype)
        self.plane = plane

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        picked = [range(n)[k] for n, k in zip(self.shape, key, strict=True)]
        out = np.empty([len(p) for p in picked], self.dtype)
        for i, j, k in np.ndindex(out.shape[:3]):
            out[i, j, k] = self.plane(picked[0][i], picked[1][j], picked[2][k])[key[3:]]
        return out
