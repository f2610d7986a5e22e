"""Write OME-Zarr 0.5 (zarr v3) or 0.4 (zarr v2) slab by slab: units, chunks, an explicit pyramid, labels included.

Specification: https://ngff.openmicroscopy.org. Positions are of voxel centres, so a level that takes two voxels for
one starts half a fine voxel further.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cellfm_nb.atomic import remove, whole
from cellfm_nb.errors import InputError
from cellfm_nb.movie.axes import ORDER
from cellfm_nb.movie.frames import LazyFrame, slab_planes, slabs
from cellfm_nb.movie.pyramid import halve_labels, halve_mean, pyramid_factors

CHUNK = (64, 128, 128)  # z, y, x at most; t and c are 1, so that one frame is read without its neighbours
COLOURS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")  # first channels; one alone is white

Factors = list[tuple[int, int, int]]


def write(path: Path, frames: Iterable[np.ndarray | LazyFrame], shape: tuple[int, ...], dtype: np.dtype,
          spacing_um: tuple[float, float, float], dt_s: float | None = None, name: str = "movie",
          labels: bool = False, notes: Iterable[str] = (), channel_names: Sequence[str] = (),
          version: str = "0.5") -> None:
    """Write frames, one (c, z, y, x) each, as OME-Zarr with the pyramid of `pyramid_factors`.

    Parameters: shape (t, c, z, y, x); spacing_um (z, y, x); labels, True for label images: coarser levels keep every
    object, and the pyramid ends where two would fall into one voxel (a note says so); notes, kept in the metadata;
    version "0.5" or "0.4". The folder appears under its name when whole.
    """
    if version not in ("0.4", "0.5"):
        raise InputError("This version of OME-Zarr is not written here.", where=path, got=version, do="Leave it out.",
                         expected="0.5 or 0.4")
    factors, notes = pyramid_factors(shape[2:], spacing_um), list(notes)
    with whole(path) as partial:
        group = zarr.open_group(partial, mode="w", zarr_format=3 if version == "0.5" else 2)
        levels = [_create(group, str(i), shape, f, dtype, version) for i, f in enumerate(factors)]
        for t, frame in enumerate(frames):
            if labels:
                _write_labels(levels, factors, t, np.asarray(frame), notes)
            else:
                _write_image(levels, factors, t, frame)
        for i in range(len(levels), len(factors)):
            remove(partial / str(i))
        group.attrs.update(_metadata(levels, factors, spacing_um, dt_s, name, labels, notes, channel_names, version))


def _create(group: zarr.Group, name: str, shape: tuple[int, ...], factor: tuple[int, ...], dtype: np.dtype,
            version: str) -> zarr.Array:
    zyx = tuple(-(-n // f) for n, f in zip(shape[2:], factor, strict=True))
    # planes of a wide image are few to a chunk: a slab of chunks, and the two that make a coarser one, fit in memory
    most = (min(CHUNK[0], slab_planes(shape, dtype.itemsize)), *CHUNK[1:])
    # equal parts: 144 pixels make two chunks of 72, not 128 and 16
    chunks = (1, 1, *(-(-n // -(-n // m)) for n, m in zip(zyx, most, strict=True)))
    if version == "0.5":
        from zarr.codecs import BloscCodec

        how: dict[str, Any] = {"dimension_names": list(ORDER),
                               "compressors": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")}
    else:
        from numcodecs import Blosc

        how = {"chunk_key_encoding": {"name": "v2", "separator": "/"},
               "compressors": Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE)}
    return group.create_array(name, shape=(*shape[:2], *zyx), dtype=dtype, chunks=chunks, fill_value=0, **how)


def _write_image(levels: list[zarr.Array], factors: Factors, t: int, frame: np.ndarray | LazyFrame) -> None:
    for c in range(frame.shape[0]):
        for z0, z1, block in slabs(frame, c, levels[0].chunks[2]):
            levels[0][t, c, z0:z1] = block
            del block  # two at a time would be twice the memory
        for i in range(1, len(levels)):
            fine, coarse, by = levels[i - 1], levels[i], _step(factors, i)
            for z0 in range(0, coarse.shape[2], coarse.chunks[2]):
                z1 = min(z0 + coarse.chunks[2], coarse.shape[2])
                coarse[t, c, z0:z1] = halve_mean(fine[t, c, z0 * by[0]: z1 * by[0]], by)


def _write_labels(levels: list[zarr.Array], factors: Factors, t: int, frame: np.ndarray, notes: list[str]) -> None:
    """Write one frame of labels; drop the levels on which an object of it has no voxel of its own."""
    for c, volume in enumerate(frame):
        levels[0][t, c] = volume
        for i in range(1, len(levels)):
            volume, lost = halve_labels(volume, _step(factors, i))
            if lost:
                notes.append(f"no level coarser than {i - 1}: in frame {t} objects would share a voxel "
                             f"(object {lost[0]}" + (f" and {len(lost) - 1} more)" if len(lost) > 1 else ")"))
                del levels[i:]
                break
            levels[i][t, c] = volume


def _step(factors: Factors, i: int) -> tuple[int, int, int]:
    return tuple(b // a for a, b in zip(factors[i - 1], factors[i], strict=True))  # type: ignore[return-value]


def _metadata(levels: list[zarr.Array], factors: Factors, spacing_um: tuple[float, ...], dt_s: float | None, name: str,
              labels: bool, notes: list[str], channel_names: Sequence[str], version: str) -> dict[str, Any]:
    axes: list[dict[str, str]] = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    if dt_s is not None:  # an axis without unit says that the interval is not known
        axes[0]["unit"] = "second"
    datasets = []
    for level, factor in zip(levels, factors, strict=False):
        scale = [s * f for s, f in zip(spacing_um, factor, strict=True)]
        shift = [s * (f - 1) / 2 for s, f in zip(spacing_um, factor, strict=True)]
        datasets.append({"path": level.basename, "coordinateTransformations": [
            {"type": "scale", "scale": [dt_s or 1.0, 1.0, *scale]},
            {"type": "translation", "translation": [0.0, 0.0, *shift]}]})  # fmt: skip
    image = {"name": name, "axes": axes, "datasets": datasets, "type": "rarest label" if labels else "mean"}
    ome: dict[str, Any] = {"multiscales": [image]}
    if labels:
        ome["image-label"] = {"source": {"image": "../../"}}
    else:
        ome["omero"] = {"channels": _channels(levels[-1], channel_names)}
    kept = {"cellfm_nb": {"notes": notes}}
    if version == "0.5":
        return {"ome": {"version": version, **ome}, **kept}
    for part in (image, *([ome["image-label"]] if labels else [])):
        part["version"] = version
    return {**ome, **kept}


def _channels(coarsest: zarr.Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the channels for viewers: colour, contrast (percentiles 1 and 99.9 of a middle frame), name if known."""
    channels = []
    for c in range(coarsest.shape[1]):
        values = coarsest[coarsest.shape[0] // 2, c]
        values = values[np.isfinite(values)]
        start, end = (float(v) for v in np.percentile(values, (1, 99.9))) if values.size else (0.0, 1.0)
        whole_range = np.iinfo(values.dtype) if values.dtype.kind in "ui" else None
        low, high = (whole_range.min, whole_range.max) if whole_range else (start, end)
        channel = {"active": True, "color": COLOURS[c % len(COLOURS)] if coarsest.shape[1] > 1 else "FFFFFF",
                   "window": {"min": float(low), "max": float(high), "start": start, "end": end}}
        channels.append(channel | ({"label": names[c]} if names else {}))
    return channels
