"""A folder of movies becomes a data set: each movie a task of its own, on Dask workers or here, one index over all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cellfm_nb.curate.decisions import Decisions
from cellfm_nb.curate.many_check import check_call, clean, made
from cellfm_nb.curate.many_find import find_movies
from cellfm_nb.curate.many_fit import Recipe
from cellfm_nb.curate.many_index import merge
from cellfm_nb.curate.many_run import run_here, run_on_dask
from cellfm_nb.curate.shards import ShardIndex
from cellfm_nb.errors import InputError
from cellfm_nb.movie import parse_dt, parse_spacing
from cellfm_nb.profiles import settings
from cellfm_nb.progress import Progress

__all__ = ["Recipe", "curate_command", "curate_movies", "find_movies"]


def curate_movies(paths: Sequence[str | Path], folder: str | Path, recipe: Recipe | None = None, *,
                  address: str | None = None, workers: int = 2, validation: float = 0.1) -> pd.DataFrame:
    """Curate many movies into one data set of shards.

    Parameters: paths of the movies (see `find_movies`); folder of the data set; recipe for each movie; address of a
    Dask scheduler to join ("tcp://...": its workers must see the same files); without one, a cluster of `workers`
    processes on this machine, or this process alone when 0, with the same bytes; validation, share of the movies.
    Returns: the table written as movies.csv, one row per movie of this call, then of earlier ones: name, path
    (absolute), status "done" | "unchanged" | "failed" | "kept" (of an earlier call, and whole; also where a file can't
    be read now) | "left out" (of an earlier call, made otherwise), reason (of those done: what a careful reader should
    know of the file), frames, accepted, crops, seconds, folder.
    Writes: a folder per movie (see `curate_movie`); index.json, a ShardIndex of all shards with the split by movie;
    quality.csv, movies and channels ranked; movies.csv. The readers' decisions.csv in the folder goes over the rule's
    verdicts; movies it changes are made again. Killed at any moment, the same call goes on from the movies that are
    whole. To take a movie of an earlier call out, delete its folder and call again.
    Raises InputError when there is no movie, the folder can't be written, or decisions.csv or the address is
    malformed, and leaves nothing behind; Unreachable when the scheduler does not answer.
    """
    folder, recipe = Path(folder).absolute(), recipe or Recipe()
    by_file: dict[Path, Path] = {}  # given twice, also by a link, counts once
    for path in map(Path, paths):
        by_file.setdefault(path.resolve(), path.absolute())
    given = list(by_file.values())
    check_call(given, folder, address, workers, validation)
    with made(folder):
        run = run_here if workers == 0 and address is None else run_on_dask
        bar, rows = Progress(len(given), "movies"), {}
        for path, row in run(given, folder, recipe, address, workers):
            rows[path] = row
            bar.step(failed=sum(r["status"] == "failed" for r in rows.values()))
        bar.close()
        table = merge(folder, [rows[path] for path in given], recipe, validation)
    clean(folder)
    return table


def curate_command(movies: Sequence[str | Path], to: str | Path, *, dask: str | None = None, workers: int = 2,
                   spacing: str | Sequence[float] | None = None, dt: float | str | None = None,
                   target: str | Sequence[float] | None = None, profile: str = "tiny", seed: int = 0,
                   crop_shape: str | Sequence[int] | None = None, n_crops: int | None = None, validation: float = 0.1,
                   raw_ok: bool = False) -> int:
    """Do `cellfm curate MOVIE_OR_FOLDER... --to DIR`, and print what became of every movie.

    Parameters: movies, files and folders (see `find_movies`); to, the folder of the data set; dask, the address of a
    scheduler, else workers here; spacing (z,y,x) um and dt s, over what the files say; target (z,y,x) um, bring all
    to it; profile, the size and number of the crops; crop_shape ("Z,Y,X" or numbers, voxels) and n_crops over it;
    seed; validation, share of the movies; raw_ok, take raw stage scans as they are.
    Returns: the exit status: 0 when every movie named is in the data set as it is now, 1 when some are not, 2 when
    none is. Raises InputError on bad options, Unreachable when the scheduler does not answer.
    """
    sizes = settings(profile, "curate", crop_shape=parse_shape(crop_shape), n_crops=n_crops)
    recipe = Recipe(tuple(sizes.crop_shape), sizes.n_crops, seed=seed, raw_ok=raw_ok,
                    spacing_um=None if spacing is None else parse_spacing(spacing, "--spacing"),
                    dt_s=None if dt is None else parse_dt(dt, "--dt"),
                    target_um=None if target is None else parse_spacing(target, "--target"))
    paths = [found for movie in movies for found in find_movies(movie)]
    table = curate_movies(paths, to, recipe, address=dask, workers=workers, validation=validation)
    names = table.name.where(~table.name.duplicated(keep=False), table.path)
    print(table.assign(name=names).drop(columns=["path", "reason", "folder"]).to_string(index=False))
    for name, reason in zip(names[table.reason != ""], table.reason[table.reason != ""], strict=True):
        print(f"{name}: {reason}")
    for note in Decisions(Path(to) / "decisions.csv").notes + ShardIndex.load(Path(to) / "index.json").about["notes"]:
        print(note)
    before = ~table.path.isin({str(Path(path).absolute()) for path in paths})
    for status, what in (("kept", "kept of earlier calls"), ("left out", "of earlier calls left out")):
        if n := int((before & (table.status == status)).sum()):
            print(f"{n} movie(s) {what}")
    done = table.status[~before].isin(["done", "unchanged"])
    print(f"{(table.crops > 0).sum()} of {len(table)} movies, {table.crops.sum()} crops")
    return 0 if done.all() else 1 if done.any() else 2


def parse_shape(shape: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """Read the shape of a crop, "24,64,64" or three numbers (z,y,x); None stays None."""
    try:
        return None if shape is None else tuple(int(n) for n in (shape.split(",") if isinstance(shape, str) else shape))
    except (ValueError, TypeError):
        raise InputError("Malformed --crop-shape.", got=shape, expected="three whole numbers (z,y,x)",
                         do="For example --crop-shape 16,48,48") from None
