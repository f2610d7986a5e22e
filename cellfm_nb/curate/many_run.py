"""Where the movies of a data set are curated: in this process, or by Dask workers that may die."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellfm_nb.curate.many_fit import Recipe
from cellfm_nb.curate.many_task import curate_movie, empty_row, movie_name
from cellfm_nb.errors import Unreachable

FAILURES = 3  # workers a movie may lose and be tried again: one too large for them would kill them all


def run_here(paths: list[Path], folder: Path, recipe: Recipe, address: str | None, workers: int
             ) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (path, row) of one movie after the other, without Dask (see `run_on_dask`)."""
    for path in paths:
        yield path, curate_movie(path, folder, recipe)


def run_on_dask(paths: list[Path], folder: Path, recipe: Recipe, address: str | None, workers: int
                ) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (path, row) as the movies are done; a task whose worker dies is run again by another.

    Parameters: paths, absolute; folder; recipe; address of a scheduler, or None for a cluster on 127.0.0.1 of so many
    workers, a process each. Raises Unreachable when no worker answers.
    """
    import dask
    from dask.distributed import Client, KilledWorker, LocalCluster, as_completed

    with contextlib.ExitStack() as open_:
        if address is None:
            n = min(workers, len(paths))
            open_.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": FAILURES}))
            with interrupts_held():  # Dask's own memory limit is that of one core of the machine
                address = open_.enter_context(LocalCluster(
                    n_workers=n, threads_per_worker=1, processes=True, memory_limit=1.0 / n, host="127.0.0.1",
                    dashboard_address=None, silence_logs=logging.CRITICAL))
        try:
            client = open_.enter_context(Client(address, timeout=30))
            client.wait_for_workers(1, timeout=60)
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"No Dask worker at {address}: {str(error).splitlines()[0]}") from None
        tasks = {client.submit(curate_movie, str(path), str(folder), recipe, key=f"{movie_name(path)}-{i}", pure=False):
                 path for i, path in enumerate(paths)}
        for future in as_completed(tasks):
            path = tasks[future]
            try:
                row = future.result()
            except KilledWorker:
                row = lost(path, "every worker that tried it was killed (out of memory?)")
            except Exception as error:  # cancelled, lost with the scheduler
                row = lost(path, f"{type(error).__name__}: {error}")
            future.release()  # or the scheduler would make it again when the worker that holds it dies
            yield path, row


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C from the processes started meanwhile, for good: they end with this one; it is answered after."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by threads and processes
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def lost(path: Path, reason: str) -> dict[str, Any]:
    """Return the row of a movie whose task came to no end of its own."""
    return empty_row(path) | {"status": "failed", "reason": reason}
