"""What a run writes down about itself: one JSON file, read and edited under a lock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from cellfm_nb.atomic import write_json
from cellfm_nb.errors import InputError


class Journal:
    """Read and edit a run's record, safely beside other processes of the same run.

    Parameters: path, the JSON file, there or not; label, how messages name the run's folder.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label

    def load(self) -> dict[str, Any]:
        """Return the record; empty where nothing was written yet.

        Raises InputError when the file is no JSON.
        """
        try:
            return json.loads(self.path.read_text()) if self.path.exists() else {}
        except json.JSONDecodeError as error:
            raise InputError("The record of this run is damaged.", where=f"{self.label}/{self.path.name}",
                             got=str(error), expected="JSON",
                             do="Delete that file; artifacts will be made again.") from None

    def lock(self) -> FileLock:
        """Return the lock that everything written about this run is written under."""
        return FileLock(self.path.with_name(".lock"), timeout=60)

    @contextmanager
    def edit(self) -> Iterator[dict[str, Any]]:
        """Give the record to change; it is written, whole or not at all, when the block ends well."""
        with self.lock():
            record = self.load()
            yield record
            write_json(self.path, record)
