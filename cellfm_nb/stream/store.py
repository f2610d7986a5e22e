"""Rows of tokens on the device, in pinned memory or on disk, under one interface, with the dtype kept exactly.

On disk the rows live in an anonymous temporary file: it has no name, so the system itself reclaims it when the
process ends, by a crash or a kill as well; nothing has to be swept up later. Its room is reserved when it is made, so
a full disk is an error before hours of work. Plain reads and writes are used instead of a memory map: resident memory
stays at the blocks in hand. What is read next is fetched while the present block is worked on.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cellfm_nb.errors import InputError
from cellfm_nb.stream.machine import free_bytes

KINDS = ("memory", "pinned", "disk")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TokenStore:
    """Keep an (N, D) array of tokens that is read and written by blocks of rows.

    Parameters: rows N and columns D; dtype, of the rows (bfloat16 too, kept bit for bit); kind, "memory" (on the
    device), "pinned" (the host's memory, page-locked, so that copies to the device overlap with its work) or "disk";
    device, where `read` puts rows; folder, where the temporary file lives (default: the system's).
    Raises: InputError when the disk, or the host's memory, has not the room.
    """

    def __init__(self, rows: int, columns: int, dtype: torch.dtype = torch.float32,
                 kind: Literal["memory", "pinned", "disk"] = "memory", device: str | torch.device = "cpu",
                 folder: str | Path | None = None) -> None:
        if kind not in KINDS:
            raise InputError("no such kind of token store", got=kind, expected="memory or disk, or pinned")
        self.rows, self.columns, self.dtype, self.kind = rows, columns, dtype, kind
        self.device, self.folder = torch.device(device), Path(folder or tempfile.gettempdir())
        self._row_bytes = columns * dtype.itemsize
        if kind == "disk":
            self._check_room()
            self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115  closed in close()
            self._lock, self._reader = threading.Lock(), ThreadPoolExecutor(1)
            self._reserve()
        elif kind == "pinned" and self.device.type == "cuda":
            self._check_host()
            self._memory = torch.empty(rows, columns, dtype=dtype, pin_memory=True)
            self._copies = torch.cuda.Stream(self.device)
        else:
            self._memory = torch.zeros(rows, columns, dtype=dtype, device=self.device)

    @property
    def nbytes(self) -> int:
        """Bytes held by the store."""
        return self.rows * self._row_bytes

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows start..stop as a (stop - start, D) tensor on the store's device (a view when in memory)."""
        return self.fetch(start, stop)()

    def fetch(self, start: int, stop: int) -> Callable[[], Tensor]:
        """Begin to read rows start..stop; call what is returned to have them."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start}..{stop} are outside a store of {self.rows} rows")
        if self.kind == "disk":
            return self._reader.submit(self._load, start, stop).result
        rows = self._memory[start:stop]
        if rows.device == self.device:
            return lambda: rows
        with torch.cuda.stream(self._copies):
            rows, done = rows.to(self.device, non_blocking=True), torch.cuda.Event()
            done.record()

        def arrived() -> Tensor:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(done)
            rows.record_stream(now)  # its memory is not given to the next copy before this stream is done with it
            return rows

        return arrived

    def write(self, start: int, values: Tensor) -> None:
        """Put values (n, D) at rows start..start + n; they are cast to the store's dtype."""
        if not 0 <= start <= start + len(values) <= self.rows:
            raise IndexError(f"rows {start}..{start + len(values)} are outside a store of {self.rows} rows")
        if self.kind != "disk":
            self._memory[start:start + len(values)] = values.to(self._memory.device, self.dtype)
            return
        raw = values.detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy()
        view, done = memoryview(raw.reshape(-1)), 0
        try:
            with self._lock:
                self._file.seek(start * self._row_bytes)
                while done < len(view):
                    done += self._file.write(view[done:])
        except OSError as error:
            self._give_up(error)

    def gather(self, rows: Tensor) -> Tensor:
        """Return single rows (n,) int64, ascending, as (n, D): those of a block are read together."""
        parts, step = [], 8192
        for start in range(0, self.rows, step):
            low, high = torch.searchsorted(rows, torch.tensor([start, start + step])).tolist()
            if high > low:
                block = self.read(start, min(start + step, self.rows))
                parts.append(block[(rows[low:high] - start).to(block.device)])
        return torch.cat(parts)

    def close(self) -> None:
        """Give the memory or the disk space back; the store cannot be used after."""
        if self.kind == "disk":
            self._reader.shutdown(cancel_futures=True)
            self._file.close()
        else:
            self._memory = torch.empty(0, self.columns, dtype=self.dtype)

    def __enter__(self) -> TokenStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.rows

    def _load(self, start: int, stop: int) -> Tensor:
        buffer = bytearray((stop - start) * self._row_bytes)
        view, done = memoryview(buffer), 0
        with self._lock:
            self._file.seek(start * self._row_bytes)
            while done < len(buffer):  # an unbuffered read may return less than asked for
                done += self._file.readinto(view[done:])
        rows = torch.frombuffer(buffer, dtype=self.dtype) if buffer else torch.empty(0, dtype=self.dtype)
        return rows.reshape(stop - start, self.columns).to(self.device)

    def _check_room(self) -> None:
        if not os.access(self.folder, os.W_OK):
            raise InputError("the folder for streamed tokens cannot be written", where=self.folder,
                             do="give another folder (or set TMPDIR)")
        if shutil.disk_usage(self.folder).free < self.nbytes:
            raise self._full()

    def _check_host(self) -> None:
        if (free := free_bytes(torch.device("cpu"))) < self.nbytes:
            raise InputError("the host's memory is too small for pinned tokens", got=f"{free / 2**30:.2f} GiB free",
                             expected=f"{self.nbytes / 2**30:.2f} GiB for one store", do="keep them on disk")

    def _reserve(self) -> None:
        try:
            if hasattr(os, "posix_fallocate") and self.nbytes:
                os.posix_fallocate(self._file.fileno(), 0, self.nbytes)
            else:
                self._file.truncate(self.nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot reserve
                self._give_up(error)
            self._file.truncate(self.nbytes)

    def _give_up(self, error: OSError) -> None:
        if error.errno not in FULL:
            raise error
        self.close()
        raise self._full() from error

    def _full(self) -> InputError:
        free = shutil.disk_usage(self.folder).free
        return InputError("the disk is too full to stream this volume", where=self.folder,
                          got=f"{free / 2**30:.2f} GiB free", expected=f"{self.nbytes / 2**30:.2f} GiB for one store",
                          do="free some space, or give a folder on another disk (or set TMPDIR)")


def spans(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of blocks of at most `size` rows."""
    return ((start, min(start + size, rows)) for start in range(0, rows, size))


def stream_blocks(stores: tuple[TokenStore, ...], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same rows of several stores, block by block; the next block is on its way meanwhile."""
    coming: list[Callable[[], Tensor]] = []
    for start, stop in spans(stores[0].rows, size):
        present, coming = coming, [store.fetch(start, stop) for store in stores]
        if present:
            yield tuple(part() for part in present)
    yield tuple(part() for part in coming)
