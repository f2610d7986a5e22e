"""Rows of tokens in memory or on disk, under one interface, with the dtype kept exactly (bfloat16 too).

On disk the rows live in an anonymous temporary file: it has no name, so the system itself reclaims it when the
process ends, by a crash or a kill as well; nothing has to be swept up later. Plain reads and writes are used instead
of a memory map: resident memory stays at one block of rows, and a full disk is an error, not a bus fault.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cellfm_nb.errors import InputError


class TokenStore:
    """Keep an (N, D) array of tokens that is read and written by blocks of rows.

    Parameters: rows N and columns D; dtype, of the rows; kind, "memory" or "disk"; device, where rows are kept
    ("memory") and where `read` puts them; folder, where the temporary file lives (default: the system's).
    Raises: InputError when the disk has not the room.
    """

    def __init__(self, rows: int, columns: int, dtype: torch.dtype = torch.float32,
                 kind: Literal["memory", "disk"] = "memory", device: str | torch.device = "cpu",
                 folder: str | Path | None = None) -> None:
        self.rows, self.columns, self.dtype, self.kind = rows, columns, dtype, kind
        self.device, self.folder = torch.device(device), Path(folder or tempfile.gettempdir())
        self._row_bytes = columns * dtype.itemsize
        if kind == "memory":
            self._memory = torch.zeros(rows, columns, dtype=dtype, device=self.device)
        elif kind == "disk":
            self._check_room()
            self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115  closed in close()
            self._file.truncate(self.nbytes)
        else:
            raise InputError("no such kind of token store", got=kind, expected="memory or disk")

    @property
    def nbytes(self) -> int:
        """Bytes held by the store."""
        return self.rows * self._row_bytes

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows start..stop as a (stop - start, D) tensor on the store's device (a view when in memory)."""
        self._check_range(start, stop)
        if self.kind == "memory":
            return self._memory[start:stop]
        buffer = bytearray((stop - start) * self._row_bytes)
        view, done = memoryview(buffer), 0
        self._file.seek(start * self._row_bytes)
        while done < len(buffer):  # an unbuffered read may return less than asked for
            done += self._file.readinto(view[done:])
        rows = torch.frombuffer(buffer, dtype=self.dtype) if buffer else torch.empty(0, dtype=self.dtype)
        return rows.reshape(stop - start, self.columns).to(self.device)

    def write(self, start: int, values: Tensor) -> None:
        """Put values (n, D) at rows start..start + n; they are cast to the store's dtype."""
        self._check_range(start, start + len(values))
        if self.kind == "memory":
            self._memory[start:start + len(values)] = values.to(self.device, self.dtype)
            return
        raw = values.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy()
        view, done = memoryview(raw.reshape(-1)), 0
        try:
            self._file.seek(start * self._row_bytes)
            while done < len(view):
                done += self._file.write(view[done:])
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.close()
                raise self._full() from error
            raise

    def close(self) -> None:
        """Give the memory or the disk space back; the store cannot be used after."""
        if self.kind == "disk":
            self._file.close()
        else:
            self._memory = torch.empty(0, self.columns, dtype=self.dtype)

    def __enter__(self) -> TokenStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.rows

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start}..{stop} are outside a store of {self.rows} rows")

    def _check_room(self) -> None:
        if not os.access(self.folder, os.W_OK):
            raise InputError("the folder for streamed tokens cannot be written", where=self.folder,
                             do="give another folder (or set TMPDIR)")
        if shutil.disk_usage(self.folder).free < self.nbytes:
            raise self._full()

    def _full(self) -> InputError:
        free = shutil.disk_usage(self.folder).free
        return InputError("the disk is too full to stream this volume", where=self.folder,
                          got=f"{free / 2**30:.2f} GiB free", expected=f"{self.nbytes / 2**30:.2f} GiB for one store",
                          do="free some space, or give a folder on another disk (or set TMPDIR)")
