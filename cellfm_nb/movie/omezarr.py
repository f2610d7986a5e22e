"""Read OME-Zarr 0.4 (zarr v2) and 0.5 (zarr v3), and keep the list of label images beside a movie.

Specification: https://ngff.openmicroscopy.org (multiscales, axes with type and unit, scale and translation per level,
labels/, omero). It is written in `omezarr_write`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cellfm_nb.errors import InputError
from cellfm_nb.movie.source import Source
from cellfm_nb.movie.spacing import length_unit_um, time_unit_s


def is_zarr(path: Path) -> bool:
    """Say whether a folder is a zarr hierarchy (v2 or v3)."""
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs"))


def version_of(path: Path) -> str:
    """Return the version of OME-Zarr that goes with the zarr format of a folder: "0.5" (v3) or "0.4" (v2)."""
    return "0.5" if (path / "zarr.json").exists() else "0.4"


def read(path: Path) -> Source:
    """Open the first image of an OME-Zarr folder at full resolution, lazily.

    Raises InputError: damaged metadata, no multiscales, a plate, an array that is missing, unknown axes.
    """
    try:
        node = zarr.open(path, mode="r")
        attributes = dict(node.attrs)
        ome = attributes.get("ome", attributes)
        if "bioformats2raw.layout" in ome and "multiscales" not in ome:
            source = read(path / "0")
            if (path / "1").exists():
                source.notes.append("the file holds several images; the first is used")
            return source
        image = ome["multiscales"][0]
        axes = "".join((a["name"] if isinstance(a, dict) else a).lower() for a in image["axes"])
        level = image["datasets"][0]
        array = node[level["path"]]
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise InputError("This is not an OME-Zarr image.", where=path, got=f"{type(error).__name__}: {error}",
                         expected="OME-Zarr 0.4 or 0.5 with multiscales metadata and its arrays",
                         do="Point to one image, not a plate or an array; copy it again if it was cut short.") from None
    if len(axes) != array.ndim:
        raise InputError("The axes of this OME-Zarr do not fit its array.", where=path, got=f"{axes}, {array.shape}",
                         expected="one name per dimension", do="Repair its metadata.")
    scale = _scale(level, len(axes)) * _scale(image, len(axes))
    units = [a.get("unit") if isinstance(a, dict) else None for a in image["axes"]]
    version = ome.get("version") or image.get("version") or "0.4"
    source = Source(array, axes, f"OME-Zarr {version}", notes=list(attributes.get("cellfm_nb", {}).get("notes", [])),
                    name=image.get("name", ""))
    for axis, step, unit in zip(axes, scale, units, strict=True):
        if axis in "zyx" and length_unit_um(unit):
            source.spacing_um[axis] = float(step) * length_unit_um(unit)
        if axis == "t" and time_unit_s(unit):
            source.dt_s = float(step) * time_unit_s(unit)
    source.channel_names = tuple(c.get("label") or "" for c in (ome.get("omero") or {}).get("channels", []))
    return source


def _scale(node: dict[str, Any], n: int) -> np.ndarray:
    steps = [t["scale"] for t in node.get("coordinateTransformations", []) if t.get("type") == "scale"]
    return np.prod(steps, axis=0) if steps else np.ones(n)


def list_labels(movie_path: Path) -> list[str]:
    """Return the names of the label images inside an OME-Zarr movie."""
    folder = movie_path / "labels"
    if not is_zarr(folder):
        return []
    attributes = zarr.open_group(folder, mode="r").attrs
    return [name for name in attributes.get("ome", attributes).get("labels", []) if is_zarr(folder / name)]


def add_label_name(movie_path: Path, name: str) -> None:
    """Note a label image in the list that OME-Zarr keeps in labels/, in the version of the movie."""
    version = version_of(movie_path)
    group = zarr.open_group(movie_path / "labels", mode="a", zarr_format=3 if version == "0.5" else 2)
    names = sorted({*group.attrs.get("ome", group.attrs).get("labels", []), name})
    group.attrs.update({"ome": {"version": version, "labels": names}} if version == "0.5" else {"labels": names})
