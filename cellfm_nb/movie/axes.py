"""One axis order for every array: (t, c, z, y, x), whatever order the file has, without loading it."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np

from cellfm_nb.errors import InputError
from cellfm_nb.movie.source import Lazy

ORDER = "tczyx"


def canonical(array: Any, axes: str) -> Any:
    """Show an array whose axes are letters of "tczyx" as (t, c, z, y, x); what is missing gets length 1.

    Returns: an array-like whose slices are numpy arrays. Nothing is read and nothing is copied.
    """
    if axes == ORDER and np.dtype(array.dtype).isnative and not isinstance(array, Lazy):
        return array
    if type(array) is np.ndarray:
        moved = array.transpose([axes.index(a) for a in ORDER if a in axes])
        return np.expand_dims(moved, [i for i, a in enumerate(ORDER) if a not in axes])
    return Canonical(array, axes)


class Canonical:
    """A lazy array seen in the order (t, c, z, y, x), in native byte order (see `canonical`)."""

    def __init__(self, array: Any, axes: str) -> None:
        self.array, self.axes, self.ndim = array, axes, len(ORDER)
        self.shape = tuple(int(array.shape[axes.index(a)]) if a in axes else 1 for a in ORDER)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")

    def __getitem__(self, key: Any) -> np.ndarray:
        key = key if isinstance(key, tuple) else (key,)
        if Ellipsis in key:
            at = key.index(Ellipsis)
            key = key[:at] + (slice(None),) * (self.ndim + 1 - len(key)) + key[at + 1:]
        key = key + (slice(None),) * (self.ndim - len(key))
        # an integer is read as a slice of length 1, so that the block keeps its five axes until they are in order
        picks = dict(zip(ORDER, map(_slice, key, self.shape), strict=True))
        block = np.asarray(self.array[tuple(picks[a] for a in self.axes)])
        block = block.transpose([self.axes.index(a) for a in ORDER if a in self.axes])
        block = np.expand_dims(block, [i for i, a in enumerate(ORDER) if a not in self.axes])
        rest = tuple(0 if not isinstance(k, slice) else picks[a] if a not in self.axes else slice(None)
                     for a, k in zip(ORDER, key, strict=True))
        # memory of a file or of the caller is not handed out: a slice may be written to
        return block[rest].astype(self.dtype, copy=isinstance(self.array, np.ndarray))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)


def _slice(key: Any, n: int) -> slice:
    if isinstance(key, slice):
        return key
    if not -n <= index(key) < n:
        raise IndexError(f"index {key} is outside an axis of length {n}")
    return slice(index(key) % n, index(key) % n + 1)


def check(where: object, shape: tuple[int, ...], axes: str, dtype: Any) -> None:
    """Raise InputError unless the array is a movie of volumes: t, c, z, y, x known, z > 1, real numbers, not empty."""
    got = f"axes {axes or 'none'}, shape {tuple(shape)}, {dtype}"
    if set(axes) - set(ORDER) or len(set(axes)) != len(axes) or not {"y", "x"} <= set(axes):
        raise InputError("This file has axes that are not those of a movie.", where=where, got=got,
                         expected="axes among t, c, z, y, x, each once", do="Export one position as OME-TIFF (TCZYX).")
    size = dict(zip(axes, shape, strict=True))
    if 0 in shape:
        raise InputError("This file is empty.", where=where, got=got, expected="at least one frame with voxels",
                         do="Export the movie again.")
    if size.get("z", 1) < 2:
        raise InputError("This is a 2D image.", where=where, got=got, expected="volumes: a z axis of 2 or more planes",
                         do="If another axis holds the z planes, correct the dimensions "
                            "(Fiji: Image > Hyperstacks > Re-order Hyperstack) and save it again.")  # fmt: skip
    if np.dtype(dtype).kind not in "uif":
        raise InputError("This kind of number is not an intensity.", where=where, got=got,
                         expected="unsigned or signed integers, or floats", do="Convert it to 16 bit or 32 bit float.")
