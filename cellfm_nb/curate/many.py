"""A folder of movies becomes a data set: each movie a task of its own, on Dask workers or here, one index over all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cellfm_nb.atomic import whole
from cellfm_nb.curate.many_run import run_here, run_on_dask
from cellfm_nb.curate.many_task import ROW, Recipe
from cellfm_nb.curate.quality import read_quality
from cellfm_nb.curate.quality_summary import movie_quality, summarise
from cellfm_nb.curate.shards import ShardIndex
from cellfm_nb.curate.split import split_movies
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, parse_dt, parse_spacing
from cellfm_nb.profiles import settings
from cellfm_nb.progress import Progress

SUFFIXES = (".tif", ".tiff", ".zarr", ".czi", ".nd2")


def curate_movies(paths: Sequence[str | Path], folder: str | Path, recipe: Recipe | None = None, *,
                  address: str | None = None, workers: int = 2, validation: float = 0.1) -> pd.DataFrame:
    """Curate many movies into one data set of shards.

    Parameters: paths of the movies (see `find_movies`); folder of the data set; recipe for each movie; address of a
    Dask scheduler to join ("tcp://...": its workers must see the same files); without one, a cluster of `workers`
    processes on this machine, or this process alone when 0, with the same bytes; validation, share of the movies.
    Returns: the table written as movies.csv, one row per movie: name, path, status "done" | "unchanged" | "failed",
    reason (of those done: what a careful reader should know of the file), frames, accepted, crops, seconds, folder.
    Writes: a folder per movie (see `curate_movie`); index.json, a ShardIndex of all shards with the split by movie;
    quality.csv, movies and channels ranked; movies.csv. The readers' decisions.csv in the folder goes over the rule's
    verdicts; movies it changes are made again. Killed at any moment, the same call goes on from the movies that are
    whole. Raises InputError when there is no movie, Unreachable when the scheduler does not answer.
    """
    if workers < 0:
        raise InputError("That many workers can't be.", got=workers, expected="0 (this process) or more",
                         do="Give one for each processor core.")
    folder, recipe = Path(folder).absolute(), recipe or Recipe()
    names = {Path(p).absolute(): str(p) for p in paths}  # given twice counts once
    if not names:
        raise InputError("There is no movie to curate.", got="none", expected="paths of movies", do="Check the paths.")
    folder.mkdir(parents=True, exist_ok=True)
    run = run_here if workers == 0 and address is None else run_on_dask
    bar, rows = Progress(len(names), "movies"), {}
    for path, row in run(list(names), folder, recipe, address, workers):
        rows[path] = row | {"path": names[path]}
        bar.step(failed=sum(r["status"] == "failed" for r in rows.values()))
    bar.close()
    table = pd.DataFrame([rows[path] for path in names], columns=ROW)
    if (table.status != "failed").any():  # else what an earlier call left stays as it is
        table = merge(folder, table, recipe.seed, validation)
    with whole(folder / "movies.csv") as partial:
        table.to_csv(partial, index=False)
    return table


def merge(folder: Path, table: pd.DataFrame, seed: int = 0, validation: float = 0.1) -> pd.DataFrame:
    """Write index.json and quality.csv of a data set from its movies' own; return the table with copies marked failed.

    Parameters: folder; table of the movies (`curate_movies`); seed and validation of the split. A movie keeps the side
    an earlier index gave it.
    """
    try:
        about = ShardIndex.load(folder / "index.json").about
    except (OSError, InputError):
        about = {}
    same = (about.get("seed"), about.get("validation")) == (seed, validation)
    known = about["split"] if same else {}
    indices: dict[str, tuple[str, ShardIndex]] = {}  # digest -> folder's name and index
    for i in table.index[table.status != "failed"]:
        index = ShardIndex.load(folder / table.folder[i] / "index.json")
        first, _ = indices.setdefault(index.about["sha256"], (table.folder[i], index))
        if first != table.folder[i]:
            table.loc[i, ["status", "reason"]] = "failed", f"a copy of {first}: its crops would count twice"
    side = split_movies(indices, seed, validation, known)
    shards, rows = [], []
    for content, (name, index) in sorted(indices.items(), key=lambda item: item[1][0]):
        shards += [shard | {"name": f"{name}/{shard['name']}", "movie": content, "split": side[content]}
                   for shard in index.shards]
        frames = read_quality(folder / name / "quality.csv")
        rows += [movie_quality(part, index.about["dt_s"], name, c) for c, part in frames.groupby("channel")]
    ShardIndex(shards, {"seed": seed, "validation": validation, "split": known | side}).save(folder / "index.json")
    with whole(folder / "quality.csv") as partial:
        summarise(rows).to_csv(partial, index=False)
    return table


def find_movies(path: str | Path) -> list[Path]:
    """List the movies a path stands for: itself, or those in a folder, by name.

    A folder whose TIFF names differ in numbers alone, and each of which holds one volume, is one movie of per-frame
    stacks; any other folder is searched for movies: TIFF, OME-Zarr, CZI, ND2, and folders of stacks. (One-volume
    movies cell_1.tif, cell_2.tif look like frames: name the files instead of their folder.)
    Raises InputError when there is nothing.
    """
    path = Path(path)
    if not path.is_dir() or path.suffix == ".zarr":
        return [path]  # opening it says what is wrong
    inside = sorted(p for p in path.iterdir() if p.name[0] not in "._")
    tiffs = [p for p in inside if p.suffix.lower() in (".tif", ".tiff")]
    if len(tiffs) > 1 and len({re.sub(r"\d+", "#", p.name) for p in tiffs}) == 1 and _one_volume(tiffs):
        return [path]
    found = [p for p in inside if p.suffix.lower() in SUFFIXES]
    for folder in inside:
        if folder.is_dir() and folder.suffix != ".zarr":
            with contextlib.suppress(InputError):
                found += find_movies(folder)
    if not found:
        raise InputError("There is no movie in this folder.", where=path, got=f"{len(inside)} other files",
                         expected=", ".join(SUFFIXES), do="Point to the folder that holds the movies.")
    return sorted(found)


def _one_volume(tiffs: Sequence[Path]) -> bool:
    """Say whether the first of these files that can be read holds one volume of one channel."""
    for tiff in tiffs:
        with contextlib.suppress(Exception):
            return Movie.open(tiff, (1, 1, 1)).shape[:2] == (1, 1)
    return False


def curate_command(movies: Sequence[str | Path], to: str | Path, *, dask: str | None = None, workers: int = 2,
                   spacing: str | Sequence[float] | None = None, dt: float | str | None = None,
                   target: str | Sequence[float] | None = None, profile: str = "tiny", seed: int = 0,
                   crop_shape: Sequence[int] | None = None, n_crops: int | None = None, validation: float = 0.1) -> int:
    """Do `cellfm curate MOVIE_OR_FOLDER... --to DIR`, and print what became of every movie.

    Parameters: movies, files and folders (see `find_movies`); to, the folder of the data set; dask, the address of a
    scheduler, else workers here; spacing (z,y,x) um and dt s, over what the files say; target (z,y,x) um, bring all
    to it; profile, the size and number of the crops; seed; validation, share of the movies.
    Returns: the exit status: 0 when every movie is in the data set, 1 when some failed, 2 when all did.
    Raises InputError on bad options, Unreachable when the scheduler does not answer.
    """
    sizes = settings(profile, "curate", crop_shape=crop_shape, n_crops=n_crops)
    recipe = Recipe(tuple(sizes.crop_shape), sizes.n_crops, seed=seed,
                    spacing_um=None if spacing is None else parse_spacing(spacing, "--spacing"),
                    dt_s=None if dt is None else parse_dt(dt, "--dt"),
                    target_um=None if target is None else parse_spacing(target, "--target"))
    paths = [found for movie in movies for found in find_movies(movie)]
    table = curate_movies(paths, to, recipe, address=dask, workers=workers, validation=validation)
    failed, told = table[table.status == "failed"], table[table.reason != ""]
    print(table.drop(columns=["path", "reason", "folder"]).to_string(index=False))
    for name, reason in zip(told.name, told.reason, strict=True):
        print(f"{name}: {reason}")
    print(f"{len(table) - len(failed)} of {len(table)} movies, {table.crops[table.status != 'failed'].sum()} crops")
    return 0 if failed.empty else 2 if len(failed) == len(table) else 1
