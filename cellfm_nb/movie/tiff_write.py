"""Write TIFF plane by plane, whole or not at all: OME-TIFF, or the dialect of ImageJ and Fiji."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from cellfm_nb.atomic import whole
from cellfm_nb.errors import InputError
from cellfm_nb.movie.frames import LazyFrame, slab_planes, slabs

OME_TYPES = {"int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64"}
IMAGEJ_TYPES = {"uint8", "uint16", "float32"}
CLASSIC_BYTES = 3.9e9  # classic TIFF counts bytes in 32 bits

Spacing = tuple[float, float, float]


def write_ome(path: Path, frames: Iterator[np.ndarray | LazyFrame], shape: tuple[int, ...], dtype: np.dtype,
              spacing_um: Spacing, dt_s: float | None, name: str, channels: Sequence[str] = ()) -> None:
    """Write frames, one (c, z, y, x) each, as OME-TIFF; shape (t, c, z, y, x), spacing_um (z, y, x).

    Raises InputError: a kind of number that OME-TIFF does not hold.
    """
    _check(path, dtype, OME_TYPES, "OME-TIFF")
    about: dict[str, Any] = {"axes": "TCZYX", "Name": name}
    for axis, step in zip("ZYX", spacing_um, strict=True):
        about |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": "µm"}
    if dt_s is not None:
        about |= {"TimeIncrement": dt_s, "TimeIncrementUnit": "s"}
    if channels:
        about["Channel"] = {"Name": list(channels)}
    planes = (plane for frame in frames for c in range(shape[1]) for _, _, block in slabs(frame, c) for plane in block)
    with whole(path) as partial, tifffile.TiffWriter(partial, ome=True, bigtiff=_bytes(shape, dtype) > CLASSIC_BYTES
                                                     ) as file:  # fmt: skip
        file.write(planes, shape=shape, dtype=dtype, photometric="minisblack", metadata=about)


def write_imagej(path: Path, frames: Iterator[np.ndarray | LazyFrame], shape: tuple[int, ...], dtype: np.dtype,
                 spacing_um: Spacing, dt_s: float | None, name: str, channels: Sequence[str] = ()) -> None:
    """Write frames as an ImageJ hyperstack: its axes are TZCYX always, x and y sizes are resolution tags.

    Raises InputError: a kind of number ImageJ does not hold; more than 3.9 GB.
    """
    _check(path, dtype, IMAGEJ_TYPES, "ImageJ TIFF")
    if (size := _bytes(shape, dtype)) > CLASSIC_BYTES:
        raise InputError("This movie is too large for ImageJ's TIFF.", where=path.name, got=f"{size / 1e9:.1f} GB",
                         expected="3.9 GB at most", do="Write OME-TIFF (Fiji reads it with Bio-Formats) or .ome.zarr.")
    dz, dy, dx = spacing_um
    about: dict[str, Any] = {"axes": "TZCYX", "spacing": dz, "unit": "um", "Info": f"Name: {name}"}
    if dt_s is not None:
        about["finterval"] = dt_s
    if channels:
        about["Labels"] = list(channels) * (shape[0] * shape[2])
    with whole(path) as partial, tifffile.TiffWriter(partial, imagej=True) as file:
        file.write(_channel_fastest(frames, dtype), shape=(shape[0], shape[2], shape[1], *shape[3:]), dtype=dtype,
                   resolution=(1 / dx, 1 / dy), metadata=about)


def _channel_fastest(frames: Iterator[np.ndarray | LazyFrame], dtype: np.dtype) -> Iterator[np.ndarray]:
    for frame in frames:
        planes = max(1, slab_planes(frame.shape, dtype.itemsize) // frame.shape[0])
        for together in zip(*(slabs(frame, c, planes) for c in range(frame.shape[0])), strict=True):
            for z in range(together[0][1] - together[0][0]):
                yield from (block[z] for _, _, block in together)


def _check(path: Path, dtype: np.dtype, held: set[str], dialect: str) -> None:
    if dtype.name not in held:
        raise InputError(f"{dialect} does not hold this kind of number.", where=path.name, got=dtype.name,
                         expected=", ".join(sorted(held)), do="Write .ome.zarr instead, or convert it.")


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
