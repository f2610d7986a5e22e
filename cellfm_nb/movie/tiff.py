"""Read TIFF in its three dialects, lazily: OME-TIFF, ImageJ TIFF and plain TIFF; big, tiled, compressed or not."""

from __future__ import annotations

import logging
import math
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from cellfm_nb.errors import InputError
from cellfm_nb.movie.source import Lazy, Source
from cellfm_nb.movie.spacing import length_unit_um, time_unit_s

SUFFIXES = (".tif", ".tiff")


def read(path: Path, axes: str | None = None) -> Source:
    """Open a TIFF of any of the three dialects without reading its pixels.

    Parameters: path; axes, names of the file's axes where the file does not name them (its own names give way).
    Raises InputError: not a TIFF, cut short, an RGB or 2D image, axes the file does not name.
    """
    file, series = _open(path)
    if file.is_ome:
        source = _ome(file.ome_metadata)
    elif file.is_imagej:
        source = _imagej(file, series)
    else:
        source = Source(None, "", "plain TIFF")
    if len(file.series) > 1:
        source.notes.append(f"the file holds {len(file.series)} images; the first is used")
    source.axes, source.axes_source = _axes(path, series, axes, source.notes)
    if series.dataoffset is not None and series.keyframe.compression == 1:
        source.data = np.memmap(path, dtype=file.byteorder + series.dtype.char, mode="r", offset=series.dataoffset,
                                shape=series.shape)
        file.close()
    elif series.keyframe.shape == series.shape[-2:] and len(series.pages) == math.prod(series.shape[:-2]):
        source.data = _Pages(file, series)
    else:  # tiled volumes and other rarities
        import zarr

        source.data = zarr.open_array(series.aszarr(level=0), mode="r")
    return source


class _Pages(Lazy):
    """The pages of a TIFF as one lazy array: only the pages asked for are read and decoded.

    (tifffile's own zarr view takes each strip for a chunk: 100 times slower on files with one row per strip.)
    """

    def __init__(self, file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
        super().__init__(series.shape, series.dtype)
        self.file = file
        weakref.finalize(self, file.close)  # a TiffFile refers to itself: unasked, it stays open for long

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        numbers = np.arange(math.prod(self.shape[:-2])).reshape(self.shape[:-2])[key[:-2]]
        if not numbers.size:
            return np.empty((*numbers.shape, *self.shape[-2:]), self.dtype)[(..., *key[-2:])]
        planes = self.file.asarray(key=numbers.ravel().tolist(), series=0)
        return planes.reshape(*numbers.shape, *self.shape[-2:])[(..., *key[-2:])]


def _open(path: Path) -> tuple[tifffile.TiffFile, tifffile.TiffPageSeries]:
    """Open a TIFF and make sure that every pixel it promises is in the file."""
    with _complaints() as said:
        try:
            file = tifffile.TiffFile(path)
            series = file.series[0]
            # in one piece the data need no look at each page
            missing = series.dataoffset is None and any(page is None for page in series.pages)
            needed = 0 if missing else _bytes_needed(series)
        except (tifffile.TiffFileError, OSError, IndexError, ValueError) as error:
            raise InputError("This file can't be read as TIFF.", where=path, got=str(error).split("\n")[0],
                             expected="a TIFF, ImageJ TIFF or OME-TIFF image, complete",
                             do="Open it in Fiji; copy or export it again.") from None
    size = path.stat().st_size
    if said or missing or needed > size:
        got = f"{size} bytes of {needed}" if needed > size else f"{size} bytes; pages it lists are missing"
        raise InputError("This TIFF is cut short or damaged.", where=path, got=got, expected="a complete file",
                         do="Copy it again and compare the sizes; if it is one file of a set, copy all of them.")
    return file, series


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


def _axes(path: Path, series: tifffile.TiffPageSeries, given: str | None, notes: list[str]) -> tuple[str, str]:
    """Name the axes of a series and who says so; only an unnamed stack of pages is taken as z, and that is noted."""
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
        if not set(named) & set("IQ") and given.lower() != named.lower():
            notes.append(f"the axes given, {given.lower()}, override the file's, {named.lower()}")
        return given.lower(), "given"
    if len(shape) == 3 and named[0] in "IQ" and named[1:] == "YX":
        notes.append("the file does not name its axes; its pages are read as z planes (a guess)")
        return "zyx", "guessed"
    if len(shape) > 2 and set(named) & set("IQ"):
        raise InputError("The file does not name its axes.", where=path, got=got,
                         expected="t, c, z, y, x named in the file (OME-TIFF or ImageJ hyperstack)",
                         do='Say it: --axes tzyx, or axes="tzyx" in Python; or save it again as OME-TIFF from Fiji.')
    return named.lower(), "file"


def _ome(xml: str) -> Source:
    """Return what OME-XML says of its first image: name, spacing, interval and channel names."""
    root = ElementTree.fromstring(xml)
    pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
    if pixels is None:
        return Source(None, "", "OME-XML")
    spacing = {}
    for axis in "zyx":
        unit = length_unit_um(pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm"))
        if (size := pixels.get(f"PhysicalSize{axis.upper()}")) and unit:
            spacing[axis] = float(size) * unit
    step, unit = pixels.get("TimeIncrement"), time_unit_s(pixels.get("TimeIncrementUnit", "s"))
    channels = [e for e in pixels if e.tag.endswith("}Channel")]
    names = tuple(e.get("Name") or f"channel {c}" for c, e in enumerate(channels))
    return Source(None, "", "OME-XML", spacing, float(step) * unit if step and unit else None,
                  channel_names=names if any(e.get("Name") for e in channels) else ())


def _imagej(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Source:
    """Return what an ImageJ TIFF says: x, y are resolution tags, z is `spacing`, all in `unit`; slice labels."""
    about: dict[str, Any] = file.imagej_metadata or {}
    unit, spacing = length_unit_um(str(about.get("unit", ""))), {}
    if unit:
        for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
            value = file.pages[0].tags.valueof(tag)  # pixels per unit, a ratio
            if value and value[0] and value[1]:
                spacing[axis] = value[1] / value[0] * unit
        if "spacing" in about:
            spacing["z"] = float(about["spacing"]) * unit
    notes, dt_s, word = [], None, str(about.get("tunit", "s"))
    if about.get("finterval"):
        per = time_unit_s(word)
        dt_s = float(about["finterval"]) * per if per else None
        if per is None:
            notes.append(f"the frame interval, {about['finterval']:g} {word}, is in no known unit: not used")
    elif about.get("fps"):
        dt_s = 1 / float(about["fps"])
        notes.append("the frame interval is taken from frames per second, which may be the playback rate")
    # ImageJ labels slices, channel fastest: they name the channels when each channel has one label throughout
    labels, n = list(about.get("Labels") or ()), series.shape[series.axes.index("C")] if "C" in series.axes else 1
    named = len(set(labels[:n])) == n and labels == labels[:n] * (len(labels) // n)
    return Source(None, "", "ImageJ tags", spacing, dt_s, notes,
                  channel_names=tuple(labels[:n]) if named else ())
