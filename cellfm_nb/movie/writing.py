"""Write movies slab by slab, whole or not at all: OME-Zarr 0.5 or 0.4, OME-TIFF or ImageJ TIFF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellfm_nb.errors import InputError
from cellfm_nb.movie import omezarr_write, tiff_write
from cellfm_nb.movie.frames import LazyFrame
from cellfm_nb.movie.spacing import parse_spacing
from cellfm_nb.movie.tiff import SUFFIXES


def write_frames(path: str | Path, frames: Iterable[np.ndarray | LazyFrame], shape: Sequence[int], dtype: Any,
                 spacing_um: str | Sequence[float], dt_s: float | None = None, name: str | None = None,
                 labels: bool = False, notes: Sequence[str] = (), channel_names: Sequence[str] | None = None,
                 version: str = "0.5", imagej: bool = False) -> None:
    """Write a movie from an iterator of frames, holding one frame in memory, or one slab of a `LazyFrame`.

    Parameters: path, a name ending in .tif or .tiff is written as OME-TIFF, any other as OME-Zarr; frames, arrays
    (z, y, x) or (c, z, y, x); shape (t, z, y, x) or (t, c, z, y, x); spacing_um (z, y, x); labels, True for label
    images; notes, kept in OME-Zarr metadata; channel_names, one per channel; version of OME-Zarr, "0.5" (zarr v3) or
    "0.4" (zarr v2); imagej, write a TIFF as ImageJ's own hyperstack. The file appears under its name when whole.
    Raises InputError when the frames do not fit the shape and dtype, or the names the channels.
    """
    path, dtype, shape = Path(path), np.dtype(dtype).newbyteorder("="), tuple(map(int, shape))
    shape = shape if len(shape) == 5 else (shape[0], 1, *shape[1:])
    name, spacing = name or path.name.split(".")[0] or "movie", parse_spacing(spacing_um, path)
    names = parse_channel_names(channel_names, shape[1], path) if channel_names else ()
    fitting = _fitting(frames, shape, dtype, path)
    if path.suffix.lower() in SUFFIXES:
        write = tiff_write.write_imagej if imagej else tiff_write.write_ome
        write(path, fitting, shape, dtype, spacing, dt_s, name, names)
    else:
        omezarr_write.write(path, fitting, shape, dtype, spacing, dt_s, name, labels, notes, names, version)


def parse_channel_names(names: str | Sequence[str], n: int, where: object = "channel_names") -> tuple[str, ...]:
    """Return one name per channel. Raises InputError unless there are n different ones, none of them empty."""
    parts = tuple(str(name).strip() for name in ([names] if isinstance(names, str) else names))
    if len(parts) != n or len(set(parts)) != n or not all(parts):
        raise InputError("The channel names do not fit the channels.", where=where, got=", ".join(parts) or "none",
                         expected=f"{n} different names", do="Name each channel once, in the order of the file.")
    return parts


def _fitting(frames: Iterable[np.ndarray | LazyFrame], shape: tuple[int, ...], dtype: np.dtype,
             where: Path) -> Iterator[np.ndarray | LazyFrame]:
    """Yield frames as (c, z, y, x) of the promised dtype; raise InputError when shape, dtype or number differ."""
    count = 0
    for count, frame in enumerate(frames, 1):
        if not isinstance(frame, LazyFrame):
            frame = np.asarray(frame)
            frame = frame[None] if frame.ndim == 3 else frame
        if frame.shape != shape[1:] or frame.dtype.newbyteorder("=") != dtype or count > shape[0]:
            raise InputError("A frame does not fit the movie.", where=f"{where.name}, frame {count - 1}",
                             got=f"{frame.shape} {frame.dtype}", expected=f"{shape[0]} frames of {shape[1:]} {dtype}",
                             do="Make every frame the same shape and dtype.")
        yield frame
    if count != shape[0]:
        raise InputError("Frames are missing.", where=where.name, got=f"{count} frames", expected=f"{shape[0]} frames",
                         do="Give as many frames as the shape says.")
