"""Run the notebooks themselves, headless: parameters in, progress out, executed .ipynb and .html beside the results.

There is no second pipeline: what a person sees cell by cell is what the command runs.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock, Timeout

from cellfm_nb import provenance
from cellfm_nb.errors import InputError
from cellfm_nb.kernel import execute
from cellfm_nb.progress import clock
from cellfm_nb.workspace import Workspace, resolve

# Seconds each notebook took on two cores in the tiny profile: only used to guess the time left of a first run.
TYPICAL_S = {"00": 9, "01": 24, "02": 19, "03": 79, "04": 20, "05": 15, "06": 44, "07": 61, "08": 11, "09": 16,
             "10": 35, "11": 46, "12": 9, "13": 40}
TRAINING = ("02", "03")  # cut crops and train on them; after them the encoder of the package does as well


def folder() -> Path:
    """Return the folder of the notebooks: in a checkout, or inside the installed package."""
    here = Path(__file__).resolve().parent
    return here.parent / "notebooks" if (here.parent / "notebooks").is_dir() else here / "notebooks"


def listing() -> dict[str, Path]:
    """Return the notebooks by number: {"00": path, ...}."""
    return {path.name[:2]: path for path in sorted(folder().glob("[0-9][0-9]_*.ipynb"))}


def select(first: str | None = None, last: str | None = None) -> list[Path]:
    """Return the notebooks from number `first` to number `last`, both included.

    Raises InputError on a number that does not exist or an empty range.
    """
    books = listing()
    numbers = list(books)
    for given in (first, last):
        if given is not None and given.zfill(2) not in books:
            raise InputError("No notebook has this number.", got=repr(given), expected=f"{numbers[0]} to {numbers[-1]}",
                             do="See the map of notebooks in the README.")
    low, high = (first or numbers[0]).zfill(2), (last or numbers[-1]).zfill(2)
    if low > high:
        raise InputError("--from comes after --to.", got=f"{low} to {high}", expected="--from not above --to",
                         do="Swap them.")
    return [path for number, path in books.items() if low <= number <= high]


def parameters(path: Path) -> dict[str, Any]:
    """Return the plain assignments of a notebook's `parameters` cell: {name: default}."""
    book = nbformat.read(path, as_version=4)
    source = next((c.source for c in book.cells if "parameters" in c.metadata.get("tags", [])), "")
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}


def check_overrides(books: Sequence[Path], overrides: dict[str, Any]) -> None:
    """Raise InputError when an override is a parameter of none of the notebooks."""
    known = sorted({name for path in books for name in parameters(path)})
    for name in overrides:
        if name not in known:
            raise InputError("Unknown parameter.", got=f"--set {name}=...", expected=", ".join(known),
                             do="Check the spelling, or open the notebook's parameters cell.")


def run_notebooks(books: Sequence[Path], workspace: str | Path, *, profile: str = "tiny", device: str = "auto",
                  seed: int = 0, say: Callable[[str], None] | None = None, **overrides: Any) -> None:
    """Execute notebooks in order into one workspace, skipping those whose code, parameters and inputs are unchanged.

    Parameters: books, paths as of `select`; workspace, profile, device, seed as of `Workspace.open`; overrides,
    parameters injected after the tagged cell of every notebook that has them; say, where progress lines go.
    Writes executed/NN_name.ipynb and .html, and seconds and peak memory per notebook into summary.json.
    Raises NotebookFailed at the first failing cell; the next call goes on from there.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    ws = Workspace.open(workspace, profile=profile, seed=seed, device=device)
    given = {"workspace": str(workspace), "profile": profile, "device": device, "seed": seed, **overrides}
    left = _Estimate(books, ws)
    for index, path in enumerate(books):
        start = time.monotonic()
        head = f"[{index + 1}/{len(books)}] {path.stem}"
        book = inject(nbformat.read(path, as_version=4), given)
        key = _key(ws, book, path.stem)
        if _unchanged(ws, path.stem, key):
            say(f"{head}: unchanged, skipped in {clock(time.monotonic() - start)}")
            left.skip(path)
            continue
        say(f"{head}: {left.text(index)} left")
        with ws.journal.edit() as record:
            record.setdefault("notebooks", {})[path.stem] = {"status": "running", "started": provenance.now()}
        peak = execute(book, path.stem, ws.folder / "executed", head, say)
        seconds = time.monotonic() - start
        left.done(path, seconds)
        with ws.journal.edit() as record:
            record["notebooks"][path.stem].update(
                status="done", seconds=round(seconds, 2), peak_mib=round(peak), parameters=_used(path, given))
        ws.record(ws.journal.load()["notebooks"][path.stem].get("stage", path.stem), seconds=round(seconds, 2),
                  peak_mib=round(peak))
        key = _key(ws, book, path.stem)  # what it read is known only now
        with ws.journal.edit() as record:
            record["notebooks"][path.stem]["key"] = key
        say(f"{head}: done in {clock(seconds)}, peak {peak:.0f} MiB")


@contextlib.contextmanager
def exclusive(ws: Workspace) -> Iterator[None]:
    """Hold a workspace for one run: a second one at the same time is refused, a killed one leaves nothing locked."""
    lock = FileLock(ws.path(".running"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError("Another run is at work in this workspace.", where=ws.label, got="a locked folder",
                         expected="one run at a time", do="Wait for it, or use another --workspace.") from None
    try:
        yield
    finally:
        lock.release()


def finish(ws: Workspace) -> None:
    """Write the run's report again, now that every notebook has told its seconds and memory."""
    from cellfm_nb.view import report

    report.build(ws.folder)


def inject(book: Any, given: dict[str, Any]) -> Any:
    """Return a copy of a notebook with a cell after the tagged `parameters` cell that sets the given values."""
    book = copy.deepcopy(book)
    for index, cell in enumerate(book.cells):
        if "parameters" in cell.metadata.get("tags", []):
            names = [n.targets[0].id for n in ast.parse(cell.source).body if isinstance(n, ast.Assign)]
            lines = [f"{name} = {given[name]!r}" for name in names if name in given]
            extra = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": ["injected-parameters"]},
                                              id="injected-parameters")
            book.cells.insert(index + 1, extra)
            return book
    return book


def _used(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    return {**parameters(path), **{k: v for k, v in given.items() if k in parameters(path)}}


def _key(ws: Workspace, book: Any, name: str) -> str:
    """Digest what decides a notebook's results: its source, the package's, and the artifacts it read last time."""
    package = Path(__file__).parent
    code = [provenance.content_digest(p) for p in sorted(package.rglob("*.py"))]
    entry = ws.journal.load().get("notebooks", {}).get(name, {})
    found = {r: ws.identity(r) if ws.has(r) else None for r in entry.get("reads", [])}
    for path in map(resolve, entry.get("watches", [])):
        found[str(path)] = provenance.outside_digest(path) if path.exists() else None
    return provenance.digest([[c.source for c in book.cells], code, found])


def _unchanged(ws: Workspace, name: str, key: str) -> bool:
    record = ws.journal.load()
    entry = record.get("notebooks", {}).get(name, {})
    artifacts = record.get("artifacts", {})
    return (entry.get("status") == "done" and entry.get("key") == key
            and (ws.folder / "executed" / f"{name}.html").exists()
            and all(ws.has(name) and provenance.signature(ws.path(name))[1] == artifacts[name]["stat"]
                    for name in entry.get("writes", [])))


class _Estimate:
    """Guess the time left from the last run, or from typical seconds scaled by how fast this machine was so far."""

    def __init__(self, books: Sequence[Path], ws: Workspace) -> None:
        last = ws.journal.load().get("notebooks", {})
        self.expected = [last.get(p.stem, {}).get("seconds") or TYPICAL_S.get(p.name[:2], 30) for p in books]
        self.books = list(books)
        self.ratio: list[float] = []

    def skip(self, path: Path) -> None:
        self.expected[self.books.index(path)] = 0.0

    def done(self, path: Path, seconds: float) -> None:
        self.ratio.append(seconds / max(self.expected[self.books.index(path)], 1.0))

    def text(self, index: int) -> str:
        pace = sorted(self.ratio)[len(self.ratio) // 2] if self.ratio else 1.0
        return f"about {clock(pace * sum(self.expected[index:]))}"
