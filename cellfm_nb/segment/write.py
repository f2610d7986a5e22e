"""Segment a whole movie to disk: puncta through time, or bodies, with one objects table for both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfm_nb.errors import InputError
from cellfm_nb.segment.bodies import larger_than_psf, segment_bodies
from cellfm_nb.segment.instances import FeatureGrid, segment_instances
from cellfm_nb.segment.movie import detect_movie
from cellfm_nb.segment.objects import body_table, object_table

if TYPE_CHECKING:
    from cellfm_nb.movie import Movie

KINDS = ("auto", "puncta", "bodies")
LOOKED_AT = 10                                              # frames that may be blank before one tells


def read_feature_grid(
    features_path: Path, pca_path: Path, frame: int, spacing_um: Sequence[float], k: int = 10
) -> FeatureGrid:
    """Return the first k principal components of a frame's streamed features, on the movie's own grid.

    Reads the Zarr group (t, c, gz, gy, gx) and the PCA (.npz: mean, components) of notebook 06. The features may have
    been computed at another spacing than the movie's: a token then covers a fraction of voxels.
    """
    import zarr

    group = zarr.open_group(features_path, mode="r")
    about = dict(group.attrs["cellfm_nb"])
    grid = np.moveaxis(group["0"][frame], 0, -1)[..., : about["width"]].astype(np.float32)      # gz, gy, gx, D
    with np.load(pca_path, allow_pickle=False) as pca:
        mean, components = pca["mean"], pca["components"][:k]
    token_um = np.array(about["patch"]) * np.array(about["spacing_um"])
    return FeatureGrid((grid - mean) @ components.T, tuple(token_um / np.asarray(spacing_um)))


def write_objects(
    objects_path: Path, labels_path: Path, movie_path: Path, prepare: Callable, sigma_um: Sequence[float],
    fdr: float = 0.05, features_path: Path | None = None, pca_path: Path | None = None, alpha: float = 1.0,
    channel: int = 0, kind: str = "auto", **options: Any,
) -> None:
    """Segment a movie frame by frame and write its objects table and its labels (a writer for `Workspace.make`).

    Parameters
    ----------
    objects_path, labels_path : where to write: a Parquet table, and the OME-Zarr labels <movie>/labels/<name>.
    movie_path : OME-Zarr movie.
    prepare : function (movie, t, c=..., **options) -> (normalised volume, spacing_um), at the movie's own spacing.
    sigma_um : PSF (z, y, x) in micrometre; one for the whole movie.
    fdr : accepted share of false objects.
    features_path, pca_path : features of notebook 06; None leaves d0... out.
    alpha : weight of space against features where objects touch (`instances.voronoi`).
    channel : of the movie, from 0.
    kind : "puncta", "bodies" (nuclei, cells), or "auto": as `bodies.larger_than_psf` finds in the first frames.

    Raises
    ------
    InputError for an unknown kind.

    Puncta are detected with the evidence of the frames around (`movie.detect_movie`): a window of frames is in memory
    at a time; bodies frame by frame. Masses are measured on the raw frame: linear in light, unlike the normalised one.
    """
    from cellfm_nb.movie import Movie, write_frames
    from cellfm_nb.movie.omezarr import add_label_name
    from cellfm_nb.progress import track

    if kind not in KINDS:
        raise InputError("unknown kind of object", where="kind", got=kind, expected=", ".join(KINDS),
                         do='leave it at "auto" to let the movie tell')
    movie = Movie.open(movie_path)
    tables: list[pd.DataFrame] = []
    spacing, kept = movie.spacing_um, deque()
    if kind == "auto":
        kind = kind_of_objects(movie, sigma_um, channel)

    def descriptors(t: int) -> FeatureGrid | None:
        return read_feature_grid(features_path, pca_path, t, spacing) if features_path is not None else None

    def volumes() -> Iterator[np.ndarray]:
        for t in track(range(movie.n_frames), f"segment {kind}", total=movie.n_frames):
            volume = prepare(movie, t, c=channel, **options)[0]
            kept.append(volume.astype(np.float16))                                    # until its turn to be labelled
            yield volume

    def puncta() -> Iterator[np.ndarray]:
        for t, spots in enumerate(detect_movie(volumes(), spacing, sigma_um, fdr)):
            volume = kept.popleft().astype(np.float32)
            grid = descriptors(t)
            labels = segment_instances(volume, spots, spacing, sigma_um, grid, alpha)
            raw = movie.frame(t, channel).astype(np.float32)
            tables.append(object_table(labels, raw, spacing, spots, sigma_um, grid, t))
            yield labels

    def bodies() -> Iterator[np.ndarray]:
        for t in track(range(movie.n_frames), f"segment {kind}", total=movie.n_frames):
            raw = movie.frame(t, channel).astype(np.float32)
            blank = raw.min() == raw.max()
            labels = np.zeros(raw.shape, np.uint32) if blank else segment_bodies(raw, spacing)
            tables.append(body_table(labels, raw, spacing, descriptors(t), t))
            yield labels

    shape = (movie.n_frames, 1, *movie.shape[2:])
    frames = bodies() if kind == "bodies" else puncta()
    write_frames(labels_path, frames, shape, np.uint32, movie.spacing_um, movie.dt_s, "objects", labels=True)
    add_label_name(movie_path, "objects")
    pd.concat(tables, ignore_index=True).to_parquet(objects_path, index=False)


def kind_of_objects(movie: Movie, sigma_um: Sequence[float], channel: int = 0) -> str:
    """Return "bodies" or "puncta", by the first frame (of `LOOKED_AT`) that holds light; see `write_objects`."""
    for t in range(min(movie.n_frames, LOOKED_AT)):
        counts = movie.frame(t, channel)
        if counts.min() < counts.max():
            return "bodies" if larger_than_psf(counts, movie.spacing_um, sigma_um) else "puncta"
    return "puncta"
