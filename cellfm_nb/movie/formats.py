"""Read what microscopes and Fiji write: TIFF, ImageJ TIFF, OME-TIFF and folders of per-frame stacks, lazily.

A reader returns a `Source`: an array that is not loaded, the names of its axes, and the spacing and frame interval
the file states, in the file's own words turned to micrometre and second. Nothing unsafe is guessed here.
(OME-Zarr is read and written in `omezarr`.)
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from cellfm_nb.errors import InputError
from cellfm_nb.movie.spacing import length_unit_um, time_unit_s

TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass
class Source:
    """What a reader found: lazy data, the names of its axes, spacing in um per axis, interval in s, and who says so."""

    data: Any
    axes: str
    says: str  # who states spacing and interval: "OME-XML", "ImageJ tags", "OME-Zarr 0.5"
    spacing_um: dict[str, float] = field(default_factory=dict)  # only the axes the file states
    dt_s: float | None = None
    notes: list[str] = field(default_factory=list)
    name: str = ""


def read(path: Path, axes: str | None = None) -> Source:
    """Open a movie of any format. Raises InputError: nothing there, a format that is not read."""
    from cellfm_nb.movie import omezarr

    if not path.exists():
        raise InputError("There is no such file or folder.", where=path, got="nothing", do="Check the path.",
                         expected="a TIFF, OME-TIFF, OME-Zarr or a folder of stacks")
    if path.is_dir():
        return omezarr.read(path) if omezarr.is_zarr(path) else read_folder(path, axes)
    if path.suffix.lower() not in TIFF_SUFFIXES:
        raise InputError("This file format is not read here.", where=path, got=path.suffix or "no suffix",
                         expected=".tif, .tiff, .ome.tif, .ome.zarr or a folder of stacks",
                         do="Export it as OME-TIFF (Fiji: Bio-Formats exporter).")
    return read_tiff(path, axes)


def read_tiff(path: Path, axes: str | None = None) -> Source:
    """Open a TIFF of any of the three dialects without reading its pixels.

    Parameters: path; axes, names of the file's axes where the file does not name them (its own names give way).
    Raises InputError: not a TIFF, cut short, an RGB or 2D image, axes the file does not name.
    """
    file, series = _open_tiff(path)
    if file.is_ome:
        source = Source(None, "", "OME-XML", *_ome_scale(file.ome_metadata))
    elif file.is_imagej:
        source = Source(None, "", "ImageJ tags", *_imagej_scale(file))
    else:
        source = Source(None, "", "plain TIFF")
    if len(file.series) > 1:
        source.notes.append(f"the file holds {len(file.series)} images; the first is used")
    source.axes = _tiff_axes(path, series, axes, source.notes)
    if series.dataoffset is not None and series.keyframe.compression == 1:
        source.data = np.memmap(path, dtype=file.byteorder + series.dtype.char, mode="r", offset=series.dataoffset,
                                shape=series.shape)
    elif series.keyframe.shape == series.shape[-2:] and len(series.pages) == math.prod(series.shape[:-2]):
        source.data = _Pages(file, series)
    else:  # tiled volumes and other rarities
        import zarr

        source.data = zarr.open_array(series.aszarr(level=0), mode="r")
    return source


def _open_tiff(path: Path) -> tuple[tifffile.TiffFile, tifffile.TiffPageSeries]:
    """Open a TIFF and make sure that every pixel it promises is in the file."""
    with _complaints() as said:
        try:
            file = tifffile.TiffFile(path)
            series = file.series[0]
            missing = any(page is None for page in series.pages)
            needed = 0 if missing else _bytes_needed(series)
        except (tifffile.TiffFileError, OSError, IndexError, ValueError) as error:
            raise InputError("This file can't be read as TIFF.", where=path, got=str(error).split("\n")[0],
                             expected="a TIFF, ImageJ TIFF or OME-TIFF image, complete",
                             do="Open it in Fiji; copy or export it again.") from None
    size = path.stat().st_size
    if said or missing or needed > size:
        got = f"{size} bytes of {needed}" if needed > size else f"{size} bytes; pages it lists are missing"
        raise InputError("This TIFF is cut short or damaged.", where=path, got=got, expected="a complete file",
                         do="Copy it again and compare the sizes.")
    return file, series


def read_folder(path: Path, axes: str | None = None) -> Source:
    """Open a folder of per-frame stacks, one (z, y, x) TIFF per frame, in the order of the numbers in their names.

    Raises InputError: no TIFF inside; stacks of another shape or dtype (they are listed); several channels.
    """
    files = sorted((p for p in path.iterdir() if p.suffix.lower() in TIFF_SUFFIXES and p.name[0] != "."), key=_natural)
    if not files:
        raise InputError("There is no frame in this folder.", where=path, got="0 TIFF files",
                         expected="one (z, y, x) TIFF per frame, or an OME-Zarr folder",
                         do="Point to the folder that holds the stacks themselves.")
    channels = {m[1].lower() for p in files if (m := re.search(r"(?:^|[_\-. ])(?:ch|channel)_?(\d+)", p.stem, re.I))}
    if len(channels) > 1:
        raise InputError("This folder mixes channels.", where=path, got=f"channels {', '.join(sorted(channels))}",
                         expected="the frames of one channel", do="Put each channel into a folder of its own.")
    sources = [read_tiff(p, axes) for p in files]
    first = sources[0]
    shape, dtype = first.data.shape, first.data.dtype
    odd = [f"{p.name} {s.data.shape} {s.data.dtype}" for p, s in zip(files, sources, strict=True)
           if (s.data.shape, s.data.dtype) != (shape, dtype)]
    if odd:
        raise InputError(f"{len(odd)} of {len(files)} stacks do not match the first.", where=path,
                         got="; ".join(odd[:8]) + ("; ..." if len(odd) > 8 else ""),
                         expected=f"{shape} {dtype}, as in {files[0].name}", do="Remove or re-export those files.")
    if first.axes != "zyx":
        raise InputError("The files of this folder are not single stacks.", where=files[0],
                         got=f"axes {first.axes}, shape {shape}", expected="z, y, x in each file",
                         do="If each file is a whole movie, open the file itself.")
    return Source(_Stacks(files, shape, dtype), "tzyx", first.says, first.spacing_um, first.dt_s,
                  [f"{len(files)} frames, from {files[0].name} to {files[-1].name}", *first.notes])


class _Pages:
    """The pages of a TIFF as one lazy array: only the pages asked for are read and decoded.

    (tifffile's own zarr view takes each strip for a chunk: 100 times slower on files with one row per strip.)
    """

    def __init__(self, file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
        self.file, self.shape, self.dtype, self.ndim = file, series.shape, series.dtype, len(series.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        numbers = np.arange(math.prod(self.shape[:-2])).reshape(self.shape[:-2])[key[:-2]]
        if not numbers.size:
            return np.empty((*numbers.shape, *self.shape[-2:]), self.dtype)[(..., *key[-2:])]
        planes = self.file.asarray(key=numbers.ravel().tolist(), series=0)
        return planes.reshape(*numbers.shape, *self.shape[-2:])[(..., *key[-2:])]


class _Stacks:
    """Per-frame files as one lazy (t, z, y, x) array: a file is opened when one of its voxels is asked for."""

    def __init__(self, files: list[Path], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.files, self.shape, self.dtype, self.ndim = files, (len(files), *shape), dtype, 1 + len(shape)

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        chosen = self.files[key[0]]
        frames = [tifffile.imread(file).reshape(self.shape[1:])[key[1:]] for file in chosen]
        return np.stack(frames) if frames else np.empty((0, *self.shape[1:]), self.dtype)[(slice(0), *key[1:])]


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", path.name)]


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile logs about a damaged file, which it otherwise reads as a shorter one."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.addFilter(lambda record: re.search("offset|corrupt", record.getMessage()) is not None)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _bytes_needed(series: tifffile.TiffPageSeries) -> int:
    """Return where the last pixel of a series must end in its file."""
    if series.dataoffset is not None:
        return series.dataoffset + series.nbytes
    ends = [max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
            for page in series.pages if page.parent is series.parent]
    return max(ends, default=0)


def _tiff_axes(path: Path, series: tifffile.TiffPageSeries, given: str | None, notes: list[str]) -> str:
    """Name the axes of a series; only an unnamed stack of pages is taken as z, and that is noted."""
    named, shape = series.axes, series.shape
    got = f"axes {named}, shape {shape}, {series.dtype}"
    samples = shape[named.index("S")] if "S" in named else 1
    if series.keyframe.photometric in (2, 6) or (samples in (3, 4) and (given is None or named[-1] == "S")):
        raise InputError("This is a colour (RGB) image.", where=path, got=got, expected="grey values, one per voxel",
                         do="Split the channels in Fiji (Image > Color > Split Channels) and save one of them.")
    if given is not None:
        if len(given) != len(shape):
            raise InputError("The axes given do not fit the file.", where=path, got=f"{given!r} for {got}",
                             expected=f"{len(shape)} letters of tczyx", do="Name each axis of the file once.")
        return given.lower()
    if len(shape) == 3 and named[0] in "IQ" and named[1:] == "YX":
        notes.append("the file does not name its axes; its pages are read as z planes")
        return "zyx"
    if len(shape) > 2 and set(named) & set("IQ"):
        raise InputError("The file does not name its axes.", where=path, got=got,
                         expected="t, c, z, y, x named in the file (OME-TIFF or ImageJ hyperstack)",
                         do='Say it: Movie.open(path, axes="tzyx", ...), or save it again as OME-TIFF from Fiji.')
    return named.lower()


def _ome_scale(xml: str) -> tuple[dict[str, float], float | None]:
    """Return spacing and interval stated by OME-XML (the first image's Pixels)."""
    pixels = next((e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels")), None)
    attributes = {} if pixels is None else pixels.attrib
    spacing = {}
    for axis in "zyx":
        unit = length_unit_um(attributes.get(f"PhysicalSize{axis.upper()}Unit", "µm"))
        if (size := attributes.get(f"PhysicalSize{axis.upper()}")) and unit:
            spacing[axis] = float(size) * unit
    step, unit = attributes.get("TimeIncrement"), time_unit_s(attributes.get("TimeIncrementUnit", "s"))
    return spacing, float(step) * unit if step and unit else None


def _imagej_scale(file: tifffile.TiffFile) -> tuple[dict[str, float], float | None]:
    """Return spacing and interval of an ImageJ TIFF: x, y are resolution tags, z is `spacing`, all in `unit`."""
    about = file.imagej_metadata or {}
    unit, spacing = length_unit_um(str(about.get("unit", ""))), {}
    if unit:
        for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
            value = file.pages[0].tags.valueof(tag)  # pixels per unit, a ratio
            if value and value[0] and value[1]:
                spacing[axis] = value[1] / value[0] * unit
        if "spacing" in about:
            spacing["z"] = float(about["spacing"]) * unit
    step = about.get("finterval") or (1 / about["fps"] if about.get("fps") else None)
    per = time_unit_s(str(about.get("tunit", "s"))) or 1.0
    return spacing, float(step) * per if step else None
