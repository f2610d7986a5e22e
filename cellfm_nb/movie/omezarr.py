"""OME-Zarr: read 0.4 (zarr v2) and 0.5 (zarr v3), write 0.5 frame by frame, labels included.

Specification: https://ngff.openmicroscopy.org (multiscales, axes with type and unit, scale and translation per level,
labels/). Positions are of voxel centres, so a level averaged over 2 x 2 pixels starts half a fine pixel further.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from cellfm_nb.atomic import whole
from cellfm_nb.errors import InputError
from cellfm_nb.movie.formats import Source
from cellfm_nb.movie.spacing import length_unit_um, time_unit_s

AXES = "tczyx"
CHUNK = {"z": 64, "y": 128, "x": 128}  # at most; t and c are 1, so that one frame is read without its neighbours
SMALLEST_PX = 256  # a coarser level is written while the image is wider than this


def is_zarr(path: Path) -> bool:
    """Say whether a folder is a zarr hierarchy (v2 or v3)."""
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs"))


def read(path: Path) -> Source:
    """Open the first image of an OME-Zarr folder at full resolution, lazily.

    Raises InputError: damaged metadata, no multiscales, a plate, an array that is missing, unknown axes.
    """
    try:
        node = zarr.open(path, mode="r")
        attributes = dict(node.attrs)
        ome = attributes.get("ome", attributes)
        if "bioformats2raw.layout" in ome and "multiscales" not in ome:
            return read(path / "0")
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
    spacing, dt_s = {}, None
    for axis, step, unit in zip(axes, scale, units, strict=True):
        if axis in "zyx" and length_unit_um(unit):
            spacing[axis] = float(step) * length_unit_um(unit)
        if axis == "t" and time_unit_s(unit):
            dt_s = float(step) * time_unit_s(unit)
    version = ome.get("version") or image.get("version") or "0.4"
    notes = list(attributes.get("cellfm_nb", {}).get("notes", []))
    return Source(array, axes, f"OME-Zarr {version}", spacing, dt_s, notes, image.get("name", ""))


def _scale(node: dict[str, Any], n: int) -> np.ndarray:
    steps = [t["scale"] for t in node.get("coordinateTransformations", []) if t.get("type") == "scale"]
    return np.prod(steps, axis=0) if steps else np.ones(n)


def write(path: Path, frames: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype,
          spacing_um: tuple[float, float, float], dt_s: float | None = None, name: str = "movie",
          labels: bool = False, notes: Iterable[str] = ()) -> None:
    """Write frames, one (c, z, y, x) array each, as OME-Zarr 0.5 with a pyramid in y and x.

    Parameters: shape (t, c, z, y, x); spacing_um (z, y, x); labels, True for label images (coarser levels take every
    second pixel instead of the mean); notes, kept in the metadata. The folder appears under its name when whole.
    """
    factors = [1]
    while max(shape[3:]) // factors[-1] > SMALLEST_PX:
        factors.append(2 * factors[-1])
    with whole(path) as partial:
        group = zarr.open_group(partial, mode="w", zarr_format=3)
        levels = [group.create_array(str(i), shape=(*shape[:3], shape[3] // f, shape[4] // f), dtype=dtype,
                                     chunks=_chunks(shape, f), dimension_names=list(AXES), fill_value=0,
                                     compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"))
                  for i, f in enumerate(factors)]  # fmt: skip
        for t, frame in enumerate(frames):
            for level in levels:
                level[t] = frame
                frame = _halve(frame, labels)
        group.attrs.update(_metadata(factors, spacing_um, dt_s, name, labels, list(notes)))


def _chunks(shape: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Cut z, y, x into equal chunks no longer than CHUNK (144 pixels make two of 72, not 128 and 16)."""
    sizes = (shape[2], shape[3] // factor, shape[4] // factor)
    return (1, 1, *(-(-n // -(-n // CHUNK[a])) for n, a in zip(sizes, "zyx", strict=True)))


def _halve(frame: np.ndarray, labels: bool) -> np.ndarray:
    """Average 2 x 2 pixels in y, x, or take one of them for labels; frame (c, z, y, x), same dtype."""
    c, z, y, x = frame.shape
    tiles = frame[..., : y // 2 * 2, : x // 2 * 2].reshape(c, z, y // 2, 2, x // 2, 2)
    if labels:
        return tiles[:, :, :, 0, :, 0]
    mean = tiles.mean(axis=(3, 5), dtype=np.float32)
    return (np.rint(mean) if frame.dtype.kind in "ui" else mean).astype(frame.dtype)


def _metadata(factors: list[int], spacing_um: tuple[float, ...], dt_s: float | None, name: str, labels: bool,
              notes: list[str]) -> dict[str, Any]:
    axes: list[dict[str, str]] = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    if dt_s is not None:  # an axis without unit says that the interval is not known
        axes[0]["unit"] = "second"
    z, y, x = spacing_um
    datasets = []
    for i, f in enumerate(factors):
        shift = 0.0 if labels else (f - 1) / 2
        datasets.append({"path": str(i), "coordinateTransformations": [
            {"type": "scale", "scale": [dt_s or 1.0, 1.0, z, y * f, x * f]},
            {"type": "translation", "translation": [0.0, 0.0, 0.0, y * shift, x * shift]}]})  # fmt: skip
    image = {"name": name, "axes": axes, "datasets": datasets, "type": "nearest" if labels else "mean"}
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
    if labels:
        ome["image-label"] = {"source": {"image": "../../"}}
    return {"ome": ome, "cellfm_nb": {"notes": notes}}


def list_labels(movie_path: Path) -> list[str]:
    """Return the names of the label images inside an OME-Zarr movie."""
    folder = movie_path / "labels"
    if not is_zarr(folder):
        return []
    listed = zarr.open_group(folder, mode="r").attrs.get("ome", {}).get("labels", [])
    return [name for name in listed if is_zarr(folder / name)]


def add_label_name(movie_path: Path, name: str) -> None:
    """Note a label image in the list that OME-Zarr keeps in labels/."""
    group = zarr.open_group(movie_path / "labels", mode="a", zarr_format=3)
    names = sorted({*group.attrs.get("ome", {}).get("labels", []), name})
    group.attrs["ome"] = {"version": "0.5", "labels": names}
