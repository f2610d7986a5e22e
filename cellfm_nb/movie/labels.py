"""Label images beside a movie: written to and read from its labels/<name>."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cellfm_nb.errors import InputError
from cellfm_nb.movie import omezarr
from cellfm_nb.movie.movie import Movie
from cellfm_nb.movie.writing import write_frames


def write_labels(movie_path: str | Path, name: str, frames: Iterable[np.ndarray]) -> Path:
    """Write label images beside an OME-Zarr movie, in its labels/<name>, in the version of the movie.

    Parameters: frames, one (z, y, x) integer array per frame, 0 = background; they are stored as uint32.
    Returns: the folder written. Raises InputError: not an OME-Zarr movie, frames of another shape, values below 0.
    """
    movie_path = Path(movie_path)
    movie = Movie.open(movie_path)
    out = movie_path / "labels" / name
    write_frames(out, (as_labels(frame, out) for frame in frames), (movie.shape[0], 1, *movie.shape[2:]), np.uint32,
                 movie.spacing_um, movie.dt_s, name, labels=True, version=omezarr.version_of(movie_path))
    omezarr.add_label_name(movie_path, name)
    return out


def open_labels(movie_path: str | Path, name: str) -> Movie:
    """Open the label images written by `write_labels` as a Movie of uint32 (t, 1, z, y, x)."""
    folder = Path(movie_path) / "labels" / name
    if not omezarr.is_zarr(folder):
        raise InputError("There are no such labels in this movie.", where=movie_path, got=name,
                         expected=", ".join(omezarr.list_labels(Path(movie_path))) or "none are there yet",
                         do="Run the segmentation notebook first, or check the name.")
    return Movie.open(folder)


def as_labels(frame: np.ndarray, where: object = "labels") -> np.ndarray:
    """Return a label image as uint32. Raises InputError when it holds fractions, or numbers below 0 or above 2^32."""
    frame = np.asarray(frame)
    if frame.dtype.kind not in "ui" or (frame.size and not 0 <= int(frame.min()) <= int(frame.max()) < 2**32):
        raise InputError("These are not labels.", where=where, got=str(frame.dtype), do="Number the objects from 1.",
                         expected="integers from 0 (background) to 2^32 - 1")
    return frame.astype(np.uint32, copy=False)
