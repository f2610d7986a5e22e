"""Which movies a path stands for: a file, a folder of stacks that are frames of one movie, or all in a folder."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.movie.names import CHANNEL, CLOCK, FRAME, read_names

SUFFIXES = (".tif", ".tiff", ".zarr", ".czi", ".nd2")


def find_movies(path: str | Path) -> list[Path]:
    """List the movies a path stands for: itself, or those in a folder, by name.

    A folder of one-volume TIFFs whose names tell frames and channels (`movie.names`), or differ in numbers alone, is
    one movie of per-frame stacks, also where its names do not fit: opening it says what is wrong, and no frame becomes
    a movie of its own. Any other folder is searched for movies: TIFF, OME-Zarr, CZI, ND2, and folders of stacks; what
    links lead to twice is taken once. (One-volume movies cell_1.tif, cell_2.tif look like frames: name the files
    instead of their folder.) Raises InputError when there is nothing.
    """
    path = Path(path)
    if not path.is_dir() or path.suffix == ".zarr":
        return [path]  # opening it says what is wrong
    found = _search(path, set())
    if not found:
        raise InputError("There is no movie in this folder.", where=path, got=f"{len(list(path.iterdir()))} other "
                         "files and folders", expected=", ".join(SUFFIXES),
                         do="Point to the folder that holds the movies.")
    return sorted(found)


def _search(folder: Path, seen: set[Path]) -> list[Path]:
    """List the movies in a folder and those in it; seen, the files and folders looked at, links followed."""
    seen.add(folder.resolve())
    inside = sorted((p for p in folder.iterdir() if p.name[0] not in "._"), key=lambda p: (p.is_symlink(), p))
    if _are_frames([p for p in inside if p.suffix.lower() in (".tif", ".tiff")]):
        return [folder]
    found = []
    for path in inside:
        real = path.resolve()
        if real in seen or real in folder.resolve().parents:  # a link back would go round for ever
            continue
        if path.suffix.lower() in SUFFIXES:
            seen.add(real)
            found.append(path)
        elif path.is_dir():
            found += _search(path, seen)
    return found


def _are_frames(tiffs: Sequence[Path]) -> bool:
    """Say whether the TIFFs of a folder are stacks of one movie, or claim to be: one time point each, names that count.

    Two files with a frame word are enough: what else lies there is told when the folder is opened as a movie.
    """
    worded = [p for p in tiffs if FRAME.search(CHANNEL.sub(" ", CLOCK.sub(" ", p.stem)))]
    if len(worded) > 1:
        return _first_shape(worded)[:1] == (1,)
    if len(tiffs) < 2 or _first_shape(tiffs)[:2] != (1, 1):
        return False
    if len({re.sub(r"\d+", "#", p.name) for p in tiffs}) == 1:
        return True
    with contextlib.suppress(InputError):
        return bool(read_names(tiffs[0].parent, list(tiffs)).files)
    return False


def _first_shape(tiffs: Sequence[Path]) -> tuple[int, ...]:
    """Return the shape (t,c,z,y,x) of the first of these files that can be read, () when there is none."""
    for tiff in tiffs:
        with contextlib.suppress(Exception):
            return Movie.open(tiff, (1, 1, 1)).shape
    return ()
