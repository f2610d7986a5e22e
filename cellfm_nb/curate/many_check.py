"""Before many movies are curated: what can't go well is said at once, and what dead calls left is cleared."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cellfm_nb.atomic import remove
from cellfm_nb.curate.decisions import Decisions
from cellfm_nb.errors import InputError

LEFT = re.compile(r"\.(?:partial-|old-)?([A-Za-z0-9_-]+-[0-9a-f]{8})(?:\.lock)?")  # of a movie, beside its folder


def check_call(paths: Iterable[Path], folder: Path, address: str | None, workers: int, validation: float) -> None:
    """Raise InputError on what no movie could survive: no movie at all, an odd number, a bad address or decisions."""
    paths = list(paths)
    if not paths or not any(path.exists() for path in paths):
        raise InputError("There is no movie to curate.", got=", ".join(map(str, paths[:6])) or "none",
                         expected="paths of movies", do="Check the paths.")
    if workers < 0:
        raise InputError("That many workers can't be.", got=workers, expected="0 (this process) or more",
                         do="Give one for each processor core.")
    if not 0 <= validation < 1:
        raise InputError("That is no share of the movies.", got=validation, expected="0 to 1, such as 0.1",
                         do="Correct the share of validation.")
    if address is not None:
        check_address(address)
    Decisions(folder / "decisions.csv")


def check_address(address: str) -> None:
    """Raise InputError unless Dask could look for a scheduler there."""
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    try:
        scheme, place = parse_address(address)
        get_backend(scheme)
        if scheme != "inproc" and not 0 < (port := parse_host_port(place)[1]) < 65536:
            raise ValueError(f"no port has the number {port}")
    except (ValueError, ImportError) as error:
        raise InputError("This is no address of a Dask scheduler.", got=f"{address} ({error})",
                         expected="tcp://HOST:PORT", do="Copy it from what the scheduler prints first.") from None


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and see that it can be written to; when the block fails, take back the folders still empty."""
    new: list[Path] = []
    try:
        try:
            new += [p for p in (folder, *folder.parents) if not p.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError("Nothing can be written there.", where=folder, got=error.strerror or str(error),
                             expected="a folder that can be made and written to", do="Choose another --to.") from None
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # one that holds something stays, and so do those around it
            for path in new:
                path.rmdir()
        raise


def clean(folder: Path) -> None:
    """Remove locks and half-made movies, of this call and of earlier ones that were killed, if nobody holds them."""
    for name in {"index"} | {match[1] for path in folder.iterdir() if (match := LEFT.fullmatch(path.name))}:
        lock = folder / f".{name}.lock"
        with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
            for kind in ("partial", "old"):
                remove(folder / f".{kind}-{name}")
            lock.unlink()
