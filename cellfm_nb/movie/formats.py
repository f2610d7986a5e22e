"""Open a movie of any format: each reader stands in a module of its own and returns a `Source`."""

from __future__ import annotations

from pathlib import Path

from cellfm_nb.errors import InputError
from cellfm_nb.movie import folder, omezarr, tiff, vendor
from cellfm_nb.movie.source import Source

READERS = {**dict.fromkeys(tiff.SUFFIXES, tiff.read), ".czi": vendor.read_czi, ".nd2": vendor.read_nd2}


def read(path: Path, axes: str | None = None) -> Source:
    """Open a movie of any format; axes names the axes of a TIFF that does not name them.

    Raises InputError: nothing there, an empty file, a format that is not read, and what the readers raise.
    """
    if not path.exists():
        raise InputError("There is no such file or folder.", where=path, got="nothing", do="Check the path.",
                         expected="a TIFF, OME-TIFF, OME-Zarr, CZI, ND2 or a folder of stacks")
    if path.is_dir():
        return omezarr.read(path) if omezarr.is_zarr(path) else folder.read(path, axes)
    if (reader := READERS.get(path.suffix.lower())) is None:
        raise InputError("This file format is not read here.", where=path, got=path.suffix or "no suffix",
                         expected=".tif, .tiff, .ome.tif, .ome.zarr, .czi, .nd2 or a folder of stacks",
                         do="Export it as OME-TIFF (Fiji: Bio-Formats exporter).")
    if not path.stat().st_size:
        raise InputError("This file is empty.", where=path, got="0 bytes", expected="an image",
                         do="Copy or export it again; the disk may have been full.")
    return reader(path, axes) if reader is tiff.read else reader(path)
