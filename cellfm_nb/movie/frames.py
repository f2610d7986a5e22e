"""One time point, read slab by slab: what lets a frame larger than memory be checked and written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cellfm_nb.errors import InputError

SLAB_BYTES = 2**26  # planes of one channel that are held at a time


class LazyFrame:
    """One time point of a (t, c, z, y, x) array, read when it is sliced: (c, z, y, x), native byte order.

    Parameters: data; t; where, named in errors; check, also refuse voxels that are NaN or infinite, and keep `low`
    and `high`, the least and the greatest value seen. Raises InputError on voxels that can't be read.
    """

    def __init__(self, data: Any, t: int, where: str, check: bool = False) -> None:
        self.data, self.t, self.where, self.check = data, t, f"{where}, frame {t}", check
        self.shape, self.dtype = tuple(data.shape[1:]), np.dtype(data.dtype).newbyteorder("=")
        self.low: Any = None
        self.high: Any = None

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            block = np.asarray(self.data[(self.t, *key)]).astype(self.dtype, copy=False)
        except InputError:
            raise
        except Exception as error:  # a codec's own exception: the file is damaged where the header was not
            raise InputError("A frame can't be read.", where=self.where, expected="readable data",
                             got=f"{type(error).__name__}: {error}", do="Copy or export the file again.") from error
        if self.check and block.size:
            self._look_at(block, key)
        return block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = np.empty(self.shape, dtype or self.dtype)
        for c in range(self.shape[0]):
            for z0, z1, block in slabs(self, c):
                out[c, z0:z1] = block
        return out

    def _look_at(self, block: np.ndarray, key: tuple[Any, ...]) -> None:
        low, high = block.min(), block.max()  # NaN passes through both
        if not (np.isfinite(low) and np.isfinite(high)):
            at = np.argwhere(~np.isfinite(block))[0]
            z0 = key[1].start if len(key) > 1 and isinstance(key[1], slice) else 0
            c, z, y, x = key[0], int(at[0]) + (z0 or 0), int(at[1]), int(at[2])
            raise InputError("The movie holds voxels that are not numbers.", where=self.where,
                             got=f"NaN or infinite voxels, the first at c, z, y, x = {c}, {z}, {y}, {x}",
                             expected="finite intensities",
                             do="Replace them before importing (deconvolution and stitching leave them at edges).")
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)


def slab_planes(shape: tuple[int, ...], itemsize: int, most: int = 64) -> int:
    """Return how many z planes (..., y, x) make a slab of at most SLAB_BYTES, 1 to `most`."""
    return max(1, min(most, SLAB_BYTES // max(1, shape[-1] * shape[-2] * itemsize)))


def slabs(frame: Any, c: int, planes: int | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
    """Read one channel of a frame (c, z, y, x) as (z0, z1, block (z1 - z0, y, x))."""
    planes = planes or slab_planes(frame.shape, np.dtype(frame.dtype).itemsize)
    for z0 in range(0, frame.shape[1], planes):
        z1 = min(z0 + planes, frame.shape[1])
        yield z0, z1, frame[c, z0:z1]
