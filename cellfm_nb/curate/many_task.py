"""One movie of a data set, from file to shards: a task that can be killed, repeated, and run anywhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from cellfm_nb.atomic import whole
from cellfm_nb.curate.decisions import Decisions, apply_decisions
from cellfm_nb.curate.many_fit import Recipe, check_movie, voxel_digest
from cellfm_nb.curate.pack import crops_of
from cellfm_nb.curate.quality import accepted, quality_table
from cellfm_nb.curate.shards import Sample, ShardIndex, write_shards
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.provenance import code_digest, content_digest, digest, outside_digest

ROW = ["name", "path", "status", "reason", "frames", "accepted", "crops", "seconds", "folder"]


def curate_movie(path: str | Path, folder: str | Path, recipe: Recipe) -> dict[str, Any]:
    """Curate one movie into folder/<name>-<digest>/: quality.csv, crops-*.tar, index.json; whole or not at all.

    Parameters: path of the movie; folder of the data set, with the readers' decisions.csv where there is one; recipe.
    Returns: a row of movies.csv; status "done", "unchanged" (what is there was made from the same movie by the same
    recipe and code, and every byte of its shards still is what was written), or "failed" with the reason; and
    "sha256", the digest of the movie, "" where it could not be read. Never raises: one bad movie must not end the
    others.
    """
    start = time.monotonic()
    row = empty_row(path)
    try:
        if not Path(path).exists():
            Movie.open(path)  # says so
        row["sha256"] = content = outside_digest(Path(path))
        target = Path(folder) / tag(path, content)
        said = Decisions(Path(folder) / "decisions.csv").of(content)
        key = recipe_key(content, asdict(recipe), said)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):  # a worker thought lost may still be at it
            row["status"] = "unchanged" if is_whole(target, key) else "done"
            if row["status"] == "done":
                with whole(target) as partial:
                    partial.mkdir()
                    write_curated(partial, Path(path), content, recipe, key, said)
            row |= told(target)
    except InputError as error:
        expected = f"; expected {error.expected}" if error.expected else ""
        row |= {"status": "failed", "reason": "; ".join([f"{error.what.rstrip('.')}: {error.got}{expected}. "
                                                         f"{error.do or ''}", *getattr(error, "__notes__", [])])}
    except Exception as error:
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    return row | {"reason": " ".join(row["reason"].split()), "seconds": round(time.monotonic() - start, 2)}


def empty_row(path: str | Path) -> dict[str, Any]:
    """Return the row of a movie of which nothing is known yet."""
    return dict.fromkeys(ROW, "") | {"name": movie_name(path), "path": str(path), "frames": 0, "accepted": 0,
                                     "crops": 0, "seconds": 0.0, "sha256": ""}


def told(target: Path) -> dict[str, Any]:
    """Return what the index in a movie's folder says for its row."""
    index = ShardIndex.load(target / "index.json")
    return {"frames": index.about["frames"], "accepted": index.about["accepted"], "crops": len(index),
            "folder": target.name, "reason": "; ".join(index.about["notes"])}


def recipe_key(content: str, recipe: dict[str, Any], said: pd.DataFrame) -> str:
    """Return the digest of all that a movie's folder is made from: voxels, recipe, code, the readers' decisions."""
    return digest({"movie": content, "recipe": recipe, "code": code_digest(__name__), "said": said.to_csv()})


def write_curated(out: Path, path: Path, content: str, recipe: Recipe, key: str, said: pd.DataFrame) -> None:
    """Write the quality table, the shards and their index of one movie into the folder `out`.

    Parameters: out; path of the movie; content, its digest; recipe; key, the digest of all that this is made from;
    said, the readers' decisions on this movie. An InputError carries the movie's notes: they may be the reason.
    """
    movie = Movie.open(path, recipe.spacing_um, recipe.dt_s, recipe.axes)
    try:
        notes = [*movie.notes, *check_movie(movie, recipe)]
        channels = range(movie.n_channels) if recipe.channels is None else recipe.channels
        tables = {c: apply_decisions(quality_table(movie, c=c, quiet=True), said, channel=c) for c in channels}
        pd.concat([t.assign(channel=c) for c, t in tables.items()]).to_csv(out / "quality.csv", index=False)
        usable = {c: table for c, table in tables.items() if (table.verdict != "reject").any()}
        if not usable:
            accepted(pd.concat(tables.values()))  # says why
        about: dict[str, Any] = {
            "key": key, "movie": movie_name(path), "sha256": content, "voxels": voxel_digest(movie),
            "frames": movie.n_frames * len(tables), "accepted": sum(len(accepted(t)) for t in usable.values()),
            "spacing_um": list(movie.spacing_um), "dt_s": movie.dt_s, "notes": notes, "recipe": asdict(recipe),
            "sources": []}

        def samples() -> Iterator[Sample]:
            for k, (c, table) in enumerate(usable.items()):
                n = recipe.n_crops * (k + 1) // len(usable) - recipe.n_crops * k // len(usable)
                yield from crops_of(movie, accepted(table), n, tag(path, content), content, c=c,
                                    crop_shape=recipe.crop_shape, method=recipe.method, seed=recipe.seed, draw=content,
                                    target_um=recipe.target_um, about=about)

        write_shards(out / "crops", samples(), recipe.max_bytes, about).save(out / "index.json")
    except InputError as error:
        for note in movie.notes:
            error.add_note(note)
        raise


def is_whole(target: Path, key: str) -> bool:
    """Say whether a movie's folder was made from the same (its key), and no byte of its shards has changed since."""
    try:
        index = ShardIndex.load(target / "index.json")
        return index.about.get("key") == key and (target / "quality.csv").exists() and all(
            content_digest(target / shard["name"]) == shard["sha256"] for shard in index.shards)
    except (OSError, InputError):
        return False


def movie_name(path: str | Path) -> str:
    """Return a movie's name for files and keys: letters, digits, - and _ of its file name, without the suffixes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).name.split(".")[0]).strip("-") or "movie"


def tag(path: str | Path, content: str) -> str:
    """Return the name a movie goes by in a data set: its own, and the first of its digest."""
    return f"{movie_name(path)}-{content.removeprefix('glance:')[:8]}"
