"""Files and folders that appear under their final name only when they are whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def remove(path: Path) -> None:
    """Delete a file or folder, there or not."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(new: Path, final: Path) -> None:
    """Put a finished file or folder at its final name."""
    if final.is_dir():  # a folder can't be renamed onto a full one: step aside first
        old = final.with_name(f".old-{final.name}")
        remove(old)
        os.replace(final, old)
        os.replace(new, final)
        remove(old)
    else:
        os.replace(new, final)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block ends well, delete it when it fails.

    The temporary name is the same each time, so what a killed process left is cleared by the next one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    remove(partial)
    try:
        yield partial
        replace(partial, path)
    except BaseException:
        remove(partial)
        raise
