"""The stream's artifacts: features of every frame in one Zarr, written frame by frame; PCA; activation.

A frame is complete or absent. Its CLS descriptor is written last, in a chunk that appears under its name when whole,
so after a kill the same call goes on with the first frame that has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from cellfm_nb.encoder import load_encoder
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.progress import track
from cellfm_nb.seeds import rng
from cellfm_nb.stream.activation import Observer, add_spots, fit_observer
from cellfm_nb.stream.encode import Features, StreamingEncoder
from cellfm_nb.stream.pca import fit_pca

CHUNK_BYTES = 2**29  # a frame is one chunk up to here, then it is cut along z
Prepare = Callable[..., tuple[np.ndarray, tuple[float, float, float]]]


def write_features(path: str | Path, movie_path: str | Path, weights_path: str | Path, prepare: Prepare,
                   device: str = "cpu", store: str = "auto", mode: str = "auto", memory_bytes: int | None = None,
                   **options: Any) -> None:
    """Stream every frame of a movie through an encoder into a Zarr group.

    Parameters: path, group to write, or to go on with; movie_path; weights_path, the encoder.safetensors of
    an encoder folder; prepare(movie, t, target_um=..., **options) -> (volume, spacing_um), which loads frame t,
    normalised and at the spacing asked for; device; store, mode, memory_bytes, as for `StreamingEncoder`.
    Writes: array "0" (t, c, gz, gy, gx) float16 with OME-Zarr 0.5 metadata: c = D descriptors, then H channels of
    saliency times the number of tokens (1 = the attention an average token gets; float16 cannot hold the
    probabilities of a large volume); and array "cls" (t, D) float32.
    Raises: InputError when the group at path came from another encoder or movie shape.
    """
    path, movie, folder = Path(path), Movie.open(movie_path), Path(weights_path).parent
    encoder, weights = load_encoder(folder, device), json.loads((folder / "config.json").read_text())["sha256"]
    streamer, group = StreamingEncoder(encoder, store, mode, memory_bytes=memory_bytes), None
    if (path / "zarr.json").exists():
        group = _reopen(path, weights, movie)
    todo = [t for t in range(movie.n_frames) if not _has_frame(path, t)]
    for t in track(todo, "stream frames", total=movie.n_frames, done=movie.n_frames - len(todo)):
        volume, spacing_um = prepare(movie, t, target_um=encoder.config.spacing_um, **options)
        features = streamer.encode(volume, progress=movie.n_frames == 1)
        if group is None:
            group = _create(path, features, encoder.config, weights, movie, spacing_um)
        scaled = features.saliency * features.plan.tokens
        frame = np.concatenate([features.patches, scaled], axis=-1)  # gz, gy, gx, D + H
        group["0"][t] = np.moveaxis(frame, -1, 0).clip(-65504, 65504).astype(np.float16)
        group["cls"][t] = features.cls


def read_features(path: str | Path, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Return descriptors (gz, gy, gx, D) and saliency times tokens (gz, gy, gx, H) of a frame, float32."""
    group = zarr.open_group(path, mode="r")
    width = group.attrs["cellfm_nb"]["width"]
    frame = np.moveaxis(group["0"][t], 0, -1).astype(np.float32)
    return frame[..., :width], frame[..., width:]


def iterate_features(path: str | Path) -> Iterator[np.ndarray]:
    """Yield the descriptors of each frame as rows (N, D), float32."""
    for t in range(zarr.open_group(path, mode="r")["0"].shape[0]):
        patches, _ = read_features(path, t)
        yield patches.reshape(-1, patches.shape[-1])


def write_pca(path: str | Path, features_path: str | Path, k: int = 10) -> None:
    """Fit one PCA with k components to all tokens of all frames and save it (.npz)."""
    fit_pca(iterate_features(features_path), k).save(path)


def write_activation(path: str | Path, features_path: str | Path, movie_path: str | Path, weights_path: str | Path,
                     prepare: Prepare, device: str = "cpu", sample: int = 50_000, spot_frames: int = 3, seed: int = 0,
                     **options: Any) -> None:
    """Write how much each token looks like an object: Zarr array "0" (t, 1, gz, gy, gx) float32.

    Parameters: path; features_path, from `write_features`; movie_path, weights_path, prepare, device, options, the
    same as there; sample, tokens at most, drawn from all frames, that stand for the background; spot_frames, frames
    at most that are streamed once more with faint spots added; seed.
    One `Observer` serves every frame, so a value means the same throughout the movie: standard deviations above the
    background. It is kept in the group's attributes; `read_observer` reads it.
    """
    source, movie = zarr.open_group(features_path, mode="r"), Movie.open(movie_path)
    encoder = load_encoder(Path(weights_path).parent, device)
    streamer, config = StreamingEncoder(encoder), encoder.config
    frames, tokens = source["0"].shape[0], prod(source["0"].shape[2:])
    each = max(1, min(tokens, sample // frames))
    background = [rows[np.sort(rng(seed, "activation", t).choice(tokens, each, replace=False))]
                  for t, rows in enumerate(iterate_features(features_path))]
    change = []
    for t in track(sorted({round(i) for i in np.linspace(0, frames - 1, spot_frames)}), "stream frames with spots"):
        volume, spacing_um = prepare(movie, t, target_um=config.spacing_um, **options)
        spotted, touched = add_spots(volume, config.patch, spacing_um, rng(seed, "spots", t))
        change.append((streamer.encode(spotted, progress=False).patches - read_features(features_path, t)[0])[touched])
    observer = fit_observer(np.concatenate(background), np.concatenate(change))
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = _array(group, "0", (frames, 1, *source["0"].shape[2:]), np.float32)
    for t, rows in enumerate(iterate_features(features_path)):
        array[t, 0] = observer.activation(rows).reshape(array.shape[2:])
    ome = source.attrs["ome"]
    group.attrs["ome"] = {**ome, "multiscales": [{**ome["multiscales"][0], "name": "activation"}]}
    group.attrs["cellfm_nb"] = {"unit": "standard deviations above the background",
                                "direction": observer.direction.tolist(), "centre": observer.centre,
                                "scale": observer.scale}


def read_observer(path: str | Path) -> Observer:
    """Return the observer kept in a group that `write_activation` wrote."""
    kept = zarr.open_group(path, mode="r").attrs["cellfm_nb"]
    return Observer(np.array(kept["direction"]), kept["centre"], kept["scale"])


def _create(path: Path, features: Features, config: Any, weights: str, movie: Movie,
            spacing_um: tuple[float, ...]) -> zarr.Group:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    channels, grid = config.width + config.heads, features.plan.grid
    _array(group, "0", (movie.n_frames, channels, *grid), np.float16)
    _array(group, "cls", (movie.n_frames, config.width), np.float32)
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
                      "spacing_um": list(spacing_um), "shape": list(features.plan.shape),
                      "encoder_sha256": weights, "saliency": "softmax attention of CLS times the number of tokens"},
    })
    return group


def _array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: type) -> zarr.Array:
    """Make an array with one frame a chunk; chunks of zeros are written too, so that a frame's presence shows."""
    chunks = [1, *shape[1:]]
    if len(shape) == 5:
        plane = prod(shape[1:2] + shape[3:]) * np.dtype(dtype).itemsize
        chunks[2] = max(1, min(shape[2], CHUNK_BYTES // plane))
    return group.create_array(name, shape=shape, chunks=tuple(chunks), dtype=dtype, fill_value=0,
                              dimension_names=list("tczyx") if len(shape) == 5 else ["t", "c"],
                              compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
                              config={"write_empty_chunks": True})


def _has_frame(path: Path, t: int) -> bool:
    return (path / "cls" / "c" / str(t) / "0").exists()


def _reopen(path: Path, weights: str, movie: Movie) -> zarr.Group | None:
    """Open what a killed attempt left; None when it did not come to its first frame."""
    for leftover in path.rglob("*.partial"):  # chunks that were being written
        leftover.unlink()
    group = zarr.open_group(path, mode="a")
    if "cellfm_nb" not in group.attrs:
        return None
    there, wanted = (group["0"].shape[0], group.attrs["cellfm_nb"]["encoder_sha256"]), (movie.n_frames, weights)
    if there != wanted:
        raise InputError("the features here belong to another movie or encoder", where=path.name,
                         got="{} frames, weights {:.12}".format(*there),
                         expected="{} frames, weights {:.12}".format(*wanted),
                         do="give another path, or delete the old features")
    return group
