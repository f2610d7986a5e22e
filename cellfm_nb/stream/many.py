"""Many movies over many workers: each task is one volume, and whatever is done stays done.

Three ways to spread the tasks, with the same files in the end: under torchrun every rank takes its share of them, on
its own GPU; with Dask a scheduler hands them out, and a task whose worker dies is run again; else this process does
all. Killed anywhere, the same call goes on with the frames that are missing.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cellfm_nb.encoder import load_encoder
from cellfm_nb.errors import InputError, Unreachable
from cellfm_nb.movie import Movie
from cellfm_nb.progress import Progress
from cellfm_nb.stream.encode import StreamingEncoder
from cellfm_nb.stream.layout import has_frame, reopen
from cellfm_nb.stream.write import Prepare, asked_for, encoder_sha256, write_frame

Task = tuple[str, str, int]  # group of features, movie, frame


def stream_movies(movies: dict[str | Path, str | Path], weights_path: str | Path, prepare: Prepare, *,
                  workers: int = 0, address: str | None = None, device: str = "cpu",
                  streaming: dict[str, Any] | None = None, **options: Any) -> pd.DataFrame:
    """Stream every missing frame of many movies.

    Parameters: movies, {group of features to write: movie}; weights_path, prepare and options, as of
    `write_features` (prepare must be importable by the workers); workers, Dask processes on this machine, 0 = this
    process; address of a Dask scheduler to join instead; device, "cuda" spreads the ranks of torchrun over the GPUs;
    streaming, options of `StreamingEncoder`.
    Returns: a row per frame of this call (of this rank): features, movie, frame, status "done" | "failed", reason,
    what was done, seconds. One bad frame does not end the others.
    Raises: InputError when a movie cannot be opened or features there are another encoder's or of another way;
        Unreachable when no Dask worker answers.
    """
    weights, asked, tasks = encoder_sha256(Path(weights_path).parent), asked_for(streaming or {}, options), []
    for path, movie in movies.items():
        opened = Movie.open(movie)
        reopen(Path(path), weights, opened, asked)  # refuses at once what it may not touch
        tasks += [(str(Path(path).absolute()), str(Path(movie).absolute()), t) for t in range(opened.n_frames)]
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        tasks = tasks[rank::world]
        if device == "cuda":
            device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    # after the shares are cut: ranks that start late must cut the same, and no two may write one frame
    tasks = [task for task in tasks if not has_frame(Path(task[0]), task[2])]
    how = dict(weights_path=str(Path(weights_path).absolute()), prepare=prepare, device=device,
               streaming=streaming or {}, options=options)
    here = world > 1 or (workers == 0 and address is None)
    bar, rows = Progress(len(tasks), "stream volumes"), []
    for row in (stream_task(task, **how) for task in tasks) if here else on_dask(tasks, how, workers, address):
        rows.append(row)
        bar.step(failed=sum(r["status"] == "failed" for r in rows))
    bar.close()
    columns = ["features", "movie", "frame", "status", "reason", "said", "seconds"]
    return pd.DataFrame(rows, columns=columns).sort_values(["features", "frame"], ignore_index=True)


def stream_task(task: Task, weights_path: str, prepare: Prepare, device: str, streaming: dict[str, Any],
                options: dict[str, Any]) -> dict[str, Any]:
    """Stream one volume; the row says how it went. Never raises: one bad frame must not end the others."""
    path, movie, t = task
    start, row = time.monotonic(), {"features": path, "movie": movie, "frame": t, "status": "done", "reason": "",
                                    "said": ""}
    try:
        weights = encoder_sha256(Path(weights_path).parent)
        chosen = tuple((name, tuple(value) if isinstance(value, list) else value)
                       for name, value in sorted(streaming.items()))
        streamer = loaded(weights_path, weights, device, chosen)
        features = write_frame(Path(path), Movie.open(movie), t, streamer, weights, asked_for(streaming, options),
                               prepare, **options)
        row["said"] = features.said
    except InputError as error:
        row |= {"status": "failed", "reason": " ".join(str(error).split())}
    except Exception as error:
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    return row | {"seconds": round(time.monotonic() - start, 2)}


@functools.lru_cache(maxsize=1)
def loaded(weights_path: str, weights: str, device: str, streaming: tuple[tuple[str, Any], ...]) -> StreamingEncoder:
    """Load an encoder once a process; `weights`, their sha256, so that one trained anew at this path is loaded anew."""
    return StreamingEncoder(load_encoder(Path(weights_path).parent, device), **dict(streaming))


def on_dask(tasks: list[Task], how: dict[str, Any], workers: int, address: str | None) -> Iterator[dict[str, Any]]:
    """Yield the rows as Dask's workers are done with the tasks."""
    from contextlib import ExitStack

    from dask.distributed import Client, LocalCluster, as_completed

    if not tasks:
        return
    with ExitStack() as open_:
        if address is None:
            n = min(workers, len(tasks))  # Dask's own memory limit is that of one core of the machine
            address = open_.enter_context(LocalCluster(n_workers=n, threads_per_worker=1, memory_limit=1.0 / n,
                                                       host="127.0.0.1", dashboard_address=None))
        try:
            client = open_.enter_context(Client(address, timeout=30))
            client.wait_for_workers(1, timeout=60)
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"No Dask worker at {address}: {str(error).splitlines()[0]}") from None
        futures = {client.submit(stream_task, task, **how, pure=False): task for task in tasks}
        for future in as_completed(futures):
            path, movie, t = futures[future]
            try:
                row = future.result()
            except Exception as error:  # killed again and again, or lost with the scheduler
                row = {"features": path, "movie": movie, "frame": t, "status": "failed", "said": "", "seconds": 0.0,
                       "reason": f"{type(error).__name__}: {error}"}
            future.release()
            yield row
