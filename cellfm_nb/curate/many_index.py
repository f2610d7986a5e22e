"""One index, one ranking and one table over all movies of a data set: of this call, and of those before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from cellfm_nb.atomic import whole
from cellfm_nb.curate.decisions import Decisions
from cellfm_nb.curate.many_fit import Recipe
from cellfm_nb.curate.many_task import ROW, is_whole, recipe_key, told
from cellfm_nb.curate.quality import read_quality
from cellfm_nb.curate.quality_summary import movie_quality, summarise
from cellfm_nb.curate.shards import ShardIndex
from cellfm_nb.curate.split import split_movies
from cellfm_nb.errors import InputError
from cellfm_nb.movie.spacing import by

WORDS = ("name", "path", "status", "reason", "folder")  # columns of movies.csv; a name may look like a number
SAME = 0.01  # spacings that differ by less are one


def merge(folder: Path, rows: list[dict[str, Any]], recipe: Recipe, validation: float = 0.1) -> pd.DataFrame:
    """Write index.json, quality.csv and movies.csv of a data set; they hold the same movies.

    Parameters: folder; rows of this call's movies (`curate_movie`); recipe, and validation, share of the split.
    Returns: the table written as movies.csv: this call's movies, then those of earlier calls (`earlier`). A movie keeps
    the side an earlier index of the same seed gave it; a copy, of the file or of its voxels, is failed, whichever came
    later.
    """
    with FileLock(folder / ".index.lock"):  # two calls into one folder: the second sees what the first wrote
        try:
            about = ShardIndex.load(folder / "index.json").about
        except (OSError, InputError):
            about = {}
        seed, made = recipe.seed, asdict(recipe)
        if not any(row["crops"] for row in rows):  # nothing came in: no reason to make over what is there
            seed, validation, made = about.get("seed", seed), about.get("validation", validation), None
        known = about["split"] if about.get("seed") == seed else {}  # another share is for movies to come
        rows = rows + earlier(folder, rows, made)
        indices: dict[str, ShardIndex] = {}  # by folder
        owner: dict[str, dict[str, Any]] = {}  # row by digest, of the file or of its voxels
        for row in sorted((r for r in rows if r["crops"]), key=lambda r: r["sha256"] not in known):
            index = ShardIndex.load(folder / row["folder"] / "index.json")
            digests = row["sha256"], index.about["voxels"]
            if first := owner.get(digests[0]) or owner.get(digests[1]):
                row |= {"status": "failed", "accepted": 0, "crops": 0, "folder": "", "reason":
                        f"a copy of {first['folder']} ({first['path']}): its crops would count twice"}
            else:
                indices[row["folder"]] = index
                owner |= dict.fromkeys(digests, row)
        side = split_movies([i.about["sha256"] for i in indices.values()], seed, validation, known)
        shards, ranks = [], []
        for name, index in sorted(indices.items()):
            content = index.about["sha256"]
            shards += [shard | {"name": f"{name}/{shard['name']}", "movie": content, "split": side[content]}
                       for shard in index.shards]
            frames = read_quality(folder / name / "quality.csv")
            ranks += [movie_quality(part, index.about["dt_s"], name, c) for c, part in frames.groupby("channel")]
        notes = spacing_notes([i.about["recipe"]["target_um"] or i.about["spacing_um"] for i in indices.values()])
        ShardIndex(shards, {"seed": seed, "validation": validation, "split": known | side,
                            "notes": notes}).save(folder / "index.json")
        table = pd.DataFrame(rows, columns=ROW)
        for file, what in (("quality.csv", summarise(ranks)), ("movies.csv", table)):
            with whole(folder / file) as partial:
                what.to_csv(partial, index=False)
    return table


def earlier(folder: Path, rows: Sequence[dict[str, Any]], recipe: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the rows of movies of earlier calls that this one did not judge anew, from their movies.csv.

    Status "kept" where the folder is whole and made by this recipe (None: its own), code and decisions, else "left
    out" of the data set with the reason: the next call with the same recipe has it back. A movie of this call whose
    file could not be read now becomes "kept" in `rows` itself.
    """
    try:
        before = pd.read_csv(folder / "movies.csv", keep_default_na=False, dtype=dict.fromkeys(WORDS, str))
    except (OSError, ValueError):  # none, or no table
        return []
    if set(ROW) - set(before):
        return []
    said = Decisions(folder / "decisions.csv")
    now, contents, more = {str(row["path"]): row for row in rows}, {row["sha256"] for row in rows}, []
    for old in before[before.folder != ""].to_dict("records"):
        path, target = str(Path(old["path"]).absolute()), folder / old["folder"]
        try:
            about = ShardIndex.load(target / "index.json").about
            content, own = about["sha256"], about["recipe"]
        except (OSError, InputError, KeyError):
            continue
        new = now.get(path)
        if content in contents or (new and new["sha256"]):  # this call has judged it
            continue
        if is_whole(target, recipe_key(content, recipe or own, said.of(content))):
            row = old | {"path": path, "status": "kept", "sha256": content} | told(target)
            if new:
                new |= row | {"reason": f"not read now, its crops of an earlier call stay: {new['reason']}"}
            else:
                more.append(row)
        elif not new:
            more.append(old | {"path": path, "status": "left out", "accepted": 0, "crops": 0, "sha256": content,
                               "reason": "made by another recipe, other code or decisions, or changed since: give "
                                         "this movie again"})
    return more


def spacing_notes(spacings: Sequence[Sequence[float]]) -> list[str]:
    """Return a warning where movies of several spacings would stand in one data set."""
    if not spacings or np.ptp(np.log(spacings), axis=0).max() <= SAME:
        return []
    count = Counter(by(float(f"{s:.3g}") for s in spacing) for spacing in spacings)
    return ["spacings differ: " + ", ".join(f"{s} um in {n}" for s, n in sorted(count.items()))
            + " movie(s); bring all to one with --target"]
