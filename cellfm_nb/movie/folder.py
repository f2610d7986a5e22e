"""Read a folder of per-frame stacks, one TIFF per frame and channel, lazily."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cellfm_nb.errors import InputError
from cellfm_nb.movie import tiff
from cellfm_nb.movie.axes import ORDER, canonical
from cellfm_nb.movie.names import read_names
from cellfm_nb.movie.source import Lazy, Source


def read(path: Path, axes: str | None = None) -> Source:
    """Open a folder of per-frame stacks; the names of the files tell frame and channel (see `names.read_names`).

    Raises InputError: no TIFF inside; an empty or damaged file; stacks of another shape or dtype (they are listed);
    files that hold several frames; names that leave a frame open.
    """
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in tiff.SUFFIXES and p.name[0] != ".")
    if not files:
        raise InputError("There is no frame in this folder.", where=path, got="0 TIFF files",
                         expected="one (z, y, x) TIFF per frame, or an OME-Zarr folder",
                         do="Point to the folder that holds the stacks themselves.")
    if empty := [p.name for p in files if not p.stat().st_size]:
        raise InputError(f"{len(empty)} of {len(files)} files are empty.", where=path, got=", ".join(empty[:8]),
                         expected="stacks, not 0 bytes", do="Copy them again; the disk may have been full.")
    names = read_names(path, files)
    ordered = [file for row in names.files for file in row]
    first = tiff.read(ordered[0], axes)
    like = _kind(first)
    odd = [f"{p.name} {k[0]} {k[2]}" for p in ordered[1:] if (k := _kind(tiff.read(p, axes))) != like]
    if odd:
        raise InputError(f"{len(odd)} of {len(files)} stacks do not match the first.", where=path,
                         got="; ".join(odd[:8]) + ("; ..." if len(odd) > 8 else ""),
                         expected=f"{like[0]} {like[2]}, as in {ordered[0].name}",
                         do="Remove or re-export those files.")
    if set(first.axes) != set("zyx"):
        raise InputError("The files of this folder are not single stacks.", where=ordered[0],
                         got=f"axes {first.axes}, shape {like[0]}", expected="z, y, x in each file",
                         do="If each file is a whole movie, open the file itself.")
    note = f"{len(names.files)} frames, from {ordered[0].name} to {names.files[-1][0].name}"
    source = Source(_Stacks(names.files, axes, like[0], first), ORDER, first.says, first.spacing_um, first.dt_s,
                    [note, *names.notes, *first.notes], channel_names=first.channel_names,
                    axes_source=f"file names, {first.axes_source}")
    if names.dt_s:
        source.dt_s, source.dt_says = names.dt_s, "time stamps in the names"
    if all(names.channels) and (len(names.channels) > 1 or not first.channel_names):
        source.channel_names, source.channel_says = names.channels, "file names"
    return source


class _Stacks(Lazy):
    """Per-frame files as one lazy (t, c, z, y, x) array: a file is opened when one of its voxels is asked for."""

    def __init__(self, files: list[list[Path]], axes: str | None, shape: tuple[int, ...], first: Source) -> None:
        zyx = [shape[first.axes.index(a)] for a in "zyx"]
        super().__init__((len(files), len(files[0]), *zyx), first.data.dtype)
        self.files, self.axes = files, axes

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        picked = [range(n)[k] for n, k in zip(self.shape, key, strict=True)]
        out = np.empty([len(p) for p in picked], self.dtype)
        for i, j in np.ndindex(out.shape[:2]):
            source = tiff.read(self.files[picked[0][i]][picked[1][j]], self.axes)
            out[i, j] = canonical(source.data, source.axes)[(0, 0, *key[2:])]
        return out


def _kind(source: Source) -> tuple[Any, ...]:
    """Return what all stacks of a folder share: shape, axes, dtype (in words)."""
    return tuple(source.data.shape), source.axes, str(np.dtype(source.data.dtype).newbyteorder("="))
