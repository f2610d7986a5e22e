"""The stream's artifacts: features of every frame, written frame by frame; PCA; activation."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cellfm_nb.atomic import whole
from cellfm_nb.encoder import load_encoder
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.progress import track
from cellfm_nb.seeds import rng
from cellfm_nb.stream.activation import Observer, add_spots, fit_observer
from cellfm_nb.stream.encode import Features, StreamingEncoder
from cellfm_nb.stream.layout import (
    Asked,
    clear_frame,
    has_frame,
    iterate_features,
    make_array,
    open_group,
    read_features,
    reopen,
    write_record,
)
from cellfm_nb.stream.pca import fit_pca
from cellfm_nb.stream.store import FULL

Prepare = Callable[..., tuple[np.ndarray, tuple[float, float, float]]]


def write_features(path: str | Path, movie_path: str | Path, weights_path: str | Path, prepare: Prepare,
                   device: str = "cpu", store: str = "auto", mode: str = "auto", memory_bytes: int | None = None,
                   streaming: dict[str, Any] | None = None, **options: Any) -> None:
    """Stream every frame of a movie through an encoder into a Zarr group.

    Parameters: path, group to write, or to go on with; movie_path; weights_path, the encoder.safetensors of
    an encoder folder; prepare(movie, t, target_um=..., **options) -> (volume, spacing_um), which loads frame t,
    normalised and at the spacing asked for; device; store, mode, memory_bytes and what else is in `streaming`, as for
    `StreamingEncoder`.
    Writes: array "0" (t, c, gz, gy, gx) float16 with OME-Zarr 0.5 metadata: c = D descriptors, then H channels of
    saliency times the number of tokens (1 = the attention an average token gets; float16 cannot hold the
    probabilities of a large volume); and array "cls" (t, D) float32. Killed, the same call goes on with the first
    frame that is missing.
    Raises: InputError when the group at path came from another encoder, movie shape or way (see `asked_for`), or when
    the disk is full: then nothing of the frame at hand is left.
    """
    path, movie, folder = Path(path), Movie.open(movie_path), Path(weights_path).parent
    encoder, weights = load_encoder(folder, device), encoder_sha256(folder)
    how = dict(store=store, mode=mode, memory_bytes=memory_bytes) | (streaming or {})
    streamer, asked = StreamingEncoder(encoder, **how), asked_for(how, options)
    reopen(path, weights, movie, asked)  # refuses at once what it may not touch
    todo = [t for t in range(movie.n_frames) if not has_frame(path, t)]
    said = ""
    for t in track(todo, "stream frames", total=movie.n_frames, done=movie.n_frames - len(todo)):
        features = write_frame(path, movie, t, streamer, weights, asked, prepare, progress=movie.n_frames == 1,
                               **options)
        if features.said != said:  # every frame says what was done; the same again need not be read
            said = features.said
            print(f"frame {t}: {said}")


def write_frame(path: Path, movie: Movie, t: int, streamer: StreamingEncoder, weights: str, asked: Asked,
                prepare: Prepare, progress: bool = False, **options: Any) -> Features:
    """Stream one frame into its place in the group at path, made if it is not there; a few planes at a time.

    Parameters: as of `write_features`; weights, sha256 of the encoder's; asked, of `asked_for`.
    Returns the features, without their arrays.
    """
    config = streamer.encoder.config
    volume, spacing_um = prepare(movie, t, target_um=config.spacing_um, **options)
    try:
        group = open_group(path, movie, weights, asked, config, volume.shape, spacing_um)
        clear_frame(path, t)
        array = group["0"]
        tokens = prod(array.shape[2:])

        def slab(z: int, patches: np.ndarray, saliency: np.ndarray) -> None:
            planes = np.concatenate([patches, saliency * tokens], axis=-1)  # n, gy, gx, D + H
            # over a million tokens, one that takes more than 6% of a head's attention is cut to float16's largest
            array[t, :, z:z + len(planes)] = np.moveaxis(planes, -1, 0).clip(-65504, 65504).astype(np.float16)

        features = streamer.encode(volume, progress, slab, planes=array.chunks[2])
        write_record(group, t, features.record | {"tolerance": streamer.tolerance})
        group["cls"][t] = features.cls
    except OSError as error:
        if error.errno not in FULL:
            raise
        clear_frame(path, t)
        raise InputError("the disk is too full to keep these features", where=f"{path.name}, frame {t}",
                         got=f"{shutil.disk_usage(path.parent).free / 2**30:.2f} GiB free",
                         do="free some space: the same call goes on with this frame") from error
    return features


def asked_for(streaming: dict[str, Any], options: dict[str, Any]) -> Asked:
    """Return in words what decides the features of a frame: frames of one file must agree in it.

    Parameters: streaming, options of `StreamingEncoder`; options, of `prepare`. Left out is what changes nothing but
    the rounding: the store, sizes of blocks, memory, and which exact mode.
    """
    given = {name: p.default for name, p in inspect.signature(StreamingEncoder).parameters.items()} | streaming
    mode = "exact" if given["mode"] in ("sdpa", "online") else given["mode"]
    names = {"exact": (), "windows": ("window", "halo")}.get(mode, ("clusters", "tolerance", "fit", "seed"))
    return {"mode": mode} | {name: in_words(given[name]) for name in (*names, "dtype", "native_tokens")} | {
        f"prepare.{name}": in_words(value) for name, value in options.items()}


def in_words(value: Any) -> str:
    """Return a value as text that is the same in every process."""
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()[:12]}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(tuple(value) if isinstance(value, list) else value))


def encoder_sha256(folder: Path) -> str:
    """Return the sha256 of the weights in an encoder's folder."""
    return json.loads((folder / "config.json").read_text())["sha256"]


def write_pca(path: str | Path, features_path: str | Path, k: int = 10) -> None:
    """Fit one PCA with k components to all tokens of all frames and save it (.npz)."""
    with whole(path) as partial:
        fit_pca(iterate_features(features_path), k).save(partial)


def write_activation(path: str | Path, features_path: str | Path, movie_path: str | Path, weights_path: str | Path,
                     prepare: Prepare, device: str = "cpu", sample: int = 50_000, spot_frames: int = 3, seed: int = 0,
                     streaming: dict[str, Any] | None = None, **options: Any) -> None:
    """Write how much each token looks like an object: Zarr array "0" (t, 1, gz, gy, gx) float32.

    Parameters: path; features_path, from `write_features`; movie_path, weights_path, prepare, device, options, the
    same as there; sample, tokens at most, drawn from all frames, that stand for the background; spot_frames, frames
    at most that are streamed once more with faint spots added; seed;
    streaming, options of `StreamingEncoder`: those the features were made with.
    One `Observer` serves every frame, so a value means the same throughout the movie: standard deviations above the
    background. It is kept in the group's attributes; `read_observer` reads it.
    """
    source, movie = zarr.open_group(features_path, mode="r"), Movie.open(movie_path)
    encoder = load_encoder(Path(weights_path).parent, device)
    streamer, config = StreamingEncoder(encoder, **(streaming or {})), encoder.config
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
    with whole(path) as partial:
        group = zarr.open_group(partial, mode="w", zarr_format=3)
        array = make_array(group, "0", (frames, 1, *source["0"].shape[2:]), np.float32)
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
