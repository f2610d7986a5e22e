"""How features lie on disk: one OME-Zarr group a movie, float16, one frame complete or absent.

A frame's CLS descriptor is written last, in a chunk that appears under its name when whole, so it tells that the frame
is there. Frames share no chunk and no record: workers may write different frames of one group at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from cellfm_nb.atomic import remove
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

Asked = dict[str, str]
CHUNK_BYTES = 2**26  # a frame is one chunk up to here, then it is cut along z


def open_group(path: Path, movie: Movie, weights: str, asked: Asked, config: Any, shape: tuple[int, int, int],
               spacing_um: tuple[float, ...]) -> zarr.Group:
    """Open a movie's group of features, or make it; several workers may call this at once.

    Parameters: path; movie; weights, sha256 of the encoder's; asked, see `reopen`; config of the encoder; shape
    (z, y, x) and spacing_um of a frame as it is encoded.
    Raises: InputError when what is there belongs to another encoder or movie, or was made in another way.
    """
    if group := reopen(path, weights, movie, asked, shape, spacing_um):
        return group
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    create(partial, movie, weights, asked, config, shape, spacing_um)
    try:
        os.rename(partial, path)
    except OSError:  # another worker was first
        remove(partial)
    if group := reopen(path, weights, movie, asked, shape, spacing_um):
        return group
    raise InputError("there is something else where the features should be", where=path, do="give another path")


def reopen(path: Path, weights: str, movie: Movie, asked: Asked, shape: tuple[int, int, int] | None = None,
           spacing_um: tuple[float, ...] | None = None) -> zarr.Group | None:
    """Open the features that are there, None when there are none.

    Parameters: path; weights, sha256 of the encoder's; movie; asked, {option: value in words}, what decides the
    features besides; shape and spacing_um of a frame, compared where given.
    Raises: InputError when the features differ in any of these: frames of two kinds in one file would pass for one.
    """
    if not (path / "zarr.json").exists():
        return None
    group = zarr.open_group(path, mode="a")
    if "cellfm_nb" not in group.attrs:
        return None
    there, wanted = (group["0"].shape[0], group.attrs["cellfm_nb"]["encoder_sha256"]), (movie.n_frames, weights)
    if there != wanted:
        raise InputError("the features here belong to another movie or encoder", where=path.name,
                         got="{} frames, weights {:.12}".format(*there),
                         expected="{} frames, weights {:.12}".format(*wanted),
                         do="give another path, or delete the old features")
    kept = group.attrs["cellfm_nb"]
    before = kept.get("asked", {})
    if other := sorted(name for name in before.keys() | asked if before.get(name) != asked.get(name)):
        raise InputError("the features here were made in another way", where=path.name,
                         got=", ".join(f"{name} {before.get(name, 'not given')}" for name in other),
                         expected=", ".join(f"{name} {asked.get(name, 'not given')}" for name in other),
                         do="give another path, ask as before, or delete the old features")
    if shape is not None and (kept["shape"] != list(shape) or not np.allclose(kept["spacing_um"], spacing_um)):
        raise InputError("the features here are of frames of another shape or spacing", where=path.name,
                         got=f"{tuple(kept['shape'])} voxels of {tuple(kept['spacing_um'])} um",
                         expected=f"{tuple(shape)} voxels of {tuple(spacing_um)} um",
                         do="give another path, or delete the old features")
    return group


def create(path: Path, movie: Movie, weights: str, asked: Asked, config: Any, shape: tuple[int, int, int],
           spacing_um: tuple[float, ...]) -> zarr.Group:
    """Make the group: "0" (t, c, gz, gy, gx) float16, "cls" (t, D) float32, "done", a record a frame; OME-Zarr 0.5
    metadata, written last."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    grid = tuple(-(-n // p) for n, p in zip(shape, config.patch, strict=True))
    make_array(group, "0", (movie.n_frames, config.width + config.heads, *grid), np.float16)
    make_array(group, "cls", (movie.n_frames, config.width), np.float32)
    group.create_group("done")
    step = [s * p for s, p in zip(spacing_um, config.patch, strict=True)]
    centre = [s * (p - 1) / 2 for s, p in zip(spacing_um, config.patch, strict=True)]  # of token (0, 0, 0)
    time = {"name": "t", "type": "time"} | ({"unit": "second"} if movie.dt_s else {})
    axes = [time, {"name": "c", "type": "channel"}] + [
        {"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    transforms = [{"type": "scale", "scale": [movie.dt_s or 1.0, 1.0, *step]},
                  {"type": "translation", "translation": [0.0, 0.0, *centre]}]
    group.attrs.update({
        "ome": {"version": "0.5", "multiscales": [{"name": "features", "axes": axes, "datasets": [
            {"path": "0", "coordinateTransformations": transforms}]}]},
        "cellfm_nb": {"width": config.width, "heads": config.heads, "patch": list(config.patch),
                      "spacing_um": list(spacing_um), "shape": list(shape),
                      "encoder_sha256": weights, "asked": asked,
                      "saliency": "softmax attention of CLS times the number of tokens"},
    })
    return group


def make_array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: type) -> zarr.Array:
    """Make an array with one frame a chunk; chunks of zeros are written too, so that a frame's presence shows."""
    chunks = [1, *shape[1:]]
    if len(shape) == 5:
        plane = prod(shape[1:2] + shape[3:]) * np.dtype(dtype).itemsize
        chunks[2] = max(1, min(shape[2], CHUNK_BYTES // plane))
    return group.create_array(name, shape=shape, chunks=tuple(chunks), dtype=dtype, fill_value=0,
                              dimension_names=list("tczyx") if len(shape) == 5 else ["t", "c"],
                              compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
                              config={"write_empty_chunks": True})


def has_frame(path: Path, t: int) -> bool:
    """Say whether frame t is there, whole."""
    return (path / "cls" / "c" / str(t) / "0").exists()


def clear_frame(path: Path, t: int) -> None:
    """Delete what there is of frame t: the chunks a killed process, or one on a full disk, left."""
    for part in ("0/c", "done", "cls/c"):
        remove(path / part / str(t))


def write_record(group: zarr.Group, t: int, record: dict[str, Any]) -> None:
    """Keep what was done for frame t beside it, as the attributes of a group of its own: workers share no file."""
    group["done"].create_group(str(t), attributes=record)


def read_records(path: str | Path) -> Any:
    """Return what was done for each frame that is there, a DataFrame.

    Columns: frame; mode and store of the plan; backend of attention; exact, whether every key was counted; tolerance
    asked for; error believed (see `Estimate`), 0 where exact, None where unknown; said, all attempts in words.
    """
    import pandas as pd

    done = zarr.open_group(path, mode="r")["done"]
    rows = [{"frame": t, **done[str(t)].attrs} for t in sorted(map(int, done.group_keys())) if has_frame(Path(path), t)]
    return pd.DataFrame(rows, columns=["frame", "mode", "store", "backend", "exact", "tolerance", "error", "said"])


def read_features(path: str | Path, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Return descriptors (gz, gy, gx, D) and saliency times tokens (gz, gy, gx, H) of a frame, float32.

    Raises: InputError when the frame is not there: it would read as zeros.
    """
    if not has_frame(Path(path), t):
        raise InputError("these features lack a frame", where=Path(path).name, got=f"no frame {t}",
                         do="stream the movie to its end: the same call goes on where it stopped")
    group = zarr.open_group(path, mode="r")
    width = group.attrs["cellfm_nb"]["width"]
    frame = np.moveaxis(group["0"][t], 0, -1).astype(np.float32)
    return frame[..., :width], frame[..., width:]


def iterate_features(path: str | Path) -> Iterator[np.ndarray]:
    """Yield the descriptors of each frame as rows (N, D), float32."""
    for t in range(zarr.open_group(path, mode="r")["0"].shape[0]):
        patches, _ = read_features(path, t)
        yield patches.reshape(-1, patches.shape[-1])


def bytes_per_frame(path: str | Path) -> int:
    """Return the bytes on disk of a movie's features, per frame."""
    frames = zarr.open_group(path, mode="r")["0"].shape[0]
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()) // frames
