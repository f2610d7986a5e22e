"""Where a result came from: digests of files, code and values, and the versions that made it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cellfm_nb import __version__

HASH_LIMIT_BYTES = 2 * 2**30  # above this an artifact is known by what it was made from, not by its content
# the record-keeping itself is no input of the science
BOOKKEEPING = tuple(f"cellfm_nb.{name}" for name in ("arguments", "journal", "profiles", "progress", "provenance",
                                                      "workspace"))
PACKAGES = ("numpy", "scipy", "torch", "zarr", "tifffile", "scikit-image", "scikit-learn", "trackpy", "pandas")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    # labels/ inside a movie are artifacts of a later notebook: they do not change the movie
    return sorted(p for p in path.rglob("*") if p.is_file() and "labels" not in p.relative_to(path).parts[:-1]
                  or p.is_file() and not path.name.endswith(".ome.zarr"))


def signature(path: Path) -> tuple[int, str]:
    """Return the size in bytes and a cheap fingerprint (names, sizes, times) of a file or folder."""
    size, state = 0, hashlib.sha256()
    for file in _files(path):
        stat = file.stat()
        size += stat.st_size
        state.update(f"{file.relative_to(path)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return size, state.hexdigest()[:32]


def content_digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's sorted names and contents."""
    state = hashlib.sha256()
    for file in _files(path):
        if path.is_dir():
            state.update(file.relative_to(path).as_posix().encode() + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                state.update(block)
    return state.hexdigest()


def glance(path: Path) -> str:
    """Return a digest of the names, sizes and first bytes of a file or folder: enough to tell two movies apart."""
    state = hashlib.sha256()
    for index, file in enumerate(_files(path)):
        state.update(f"{file.relative_to(path)}|{file.stat().st_size}\n".encode())
        if index < 64:
            with open(file, "rb") as stream:
                state.update(stream.read(1 << 16))
    return state.hexdigest()


def outside_digest(path: Path) -> str:
    """Return the content digest of a file or folder outside the run; of a very large one, its `glance`."""
    return content_digest(path) if signature(path)[0] <= HASH_LIMIT_BYTES else f"glance:{glance(path)}"


# digests of code and values


def digest(value: Any) -> str:
    """Return the sha256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_digest(module: str) -> str:
    """Return a digest of a module's source and of the cellfm_nb modules it imports, however deep."""
    todo, seen = [module], {}
    while todo:
        name = todo.pop()
        spec = importlib.util.find_spec(name) if name not in seen else None
        if spec is None or not spec.origin or not name.startswith("cellfm_nb"):
            continue
        source = Path(spec.origin).read_text()
        seen[name] = "" if name in BOOKKEEPING else source
        for base, imported in re.findall(r"^\s*from (cellfm_nb[\w.]*) import ([\w, ()\n]+?)$", source, re.M):
            todo += [base, *(f"{base}.{word}" for word in re.findall(r"\w+", imported))] if _has_submodules(base) \
                else [base]
        todo += re.findall(r"^\s*import (cellfm_nb[\w.]+)", source, re.M)
    return digest(seen)


def _has_submodules(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("cellfm_nb", __version__), ("python", platform.python_version())]
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((package, importlib.metadata.version(package)))
    return tuple(found)


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the libraries that decide results."""
    return dict(_versions())
