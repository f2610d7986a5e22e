"""Read samples out of shards in any order: a memory map, the index's offsets, one check of every shard."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cellfm_nb.curate.shards import ShardIndex, damaged
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng

MAGIC = b"\x93NUMPY\x01\x00"  # what numpy writes for plain arrays; the header's length follows, two bytes


class ShardLoader:
    """Give the samples of a data set by number, or an epoch of them in a shuffled order.

    Parameters: index, a ShardIndex or the path of one; folder of the shards (None: the index's own); seed of the
    order; verify, compare every shard's sha256 with the index's when it is first touched.
    A sample is (array, metadata) as `read_shards` gives it; the array is a read-only view of the file's memory map,
    valid as long as you hold it: copy it before you change it. `len`, `loader[i]` and `order` make it a map-style
    torch dataset and its sampler: DataLoader(loader, sampler=loader.order(epoch, rank, world), ...).
    Raises InputError naming the shard, and the sample, that is missing or damaged.
    """

    def __init__(self, index: ShardIndex | str | Path, folder: str | Path | None = None, *, seed: int = 0,
                 verify: bool = True) -> None:
        if not isinstance(index, ShardIndex):
            folder = Path(index).parent if folder is None else folder
            index = ShardIndex.load(Path(index))
        if folder is None:
            raise InputError("Where are the shards?", got="an index without a folder", expected="the shards' folder",
                             do="Give folder=, or the path of the index.")
        self.index, self.folder, self.seed, self.verify = index, Path(folder), seed, verify
        try:
            self._samples = [(s, m["key"], *m["at"]) for s, shard in enumerate(index.shards) for m in shard["members"]]
        except KeyError:
            raise InputError("This index does not say where the samples are.", got="no offsets",
                             expected="an index of this version", do="Pack the shards again.") from None
        self._maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def identity(self) -> str:
        """What tells these samples from others: a digest of their digests, in order."""
        members = [m[suffix] for shard in self.index.shards for m in shard["members"] for suffix in ("npy", "json")]
        return hashlib.sha256("".join(members).encode()).hexdigest()

    def __getitem__(self, i: int) -> tuple[np.ndarray, dict[str, Any]]:
        s, key, npy, _, told, length = self._samples[i]
        data = self._maps.get(s) or self._open(s)
        start = npy + 10 + int.from_bytes(data[npy + 8 : npy + 10], "little")
        try:
            dtype, shape, order = _header(data[npy:start])
            meta = json.loads(data[told : told + length])
            meta.pop("sha256")
            array = np.frombuffer(data, dtype, int(np.prod(shape)), start).reshape(shape, order=order)
        except (ValueError, KeyError, SyntaxError) as error:
            raise damaged(self.folder / self.index.shards[s]["name"], key, str(error)) from None
        return array, {"key": key, **meta}

    def order(self, epoch: int, rank: int = 0, world: int = 1, worker: int = 0, workers: int = 1) -> np.ndarray:
        """Return the sample numbers of one worker of one rank in an epoch, shuffled by (seed, epoch).

        Over all ranks and workers each sample comes exactly once, whatever their numbers; parts differ by one sample
        between ranks, and by one between the workers of a rank.
        """
        for part, parts in ((rank, world), (worker, workers)):
            if not 0 <= part < parts:
                raise InputError("There is no such part.", got=f"{part} of {parts}", expected=f"0 to {parts - 1}",
                                 do="Number ranks and workers from 0.")
        return rng(self.seed, "loader", epoch).permutation(len(self))[rank::world][worker::workers]

    def epoch(self, epoch: int, rank: int = 0, world: int = 1, worker: int = 0, workers: int = 1
              ) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Yield the samples of `order`."""
        for i in self.order(epoch, rank, world, worker, workers):
            yield self[i]

    def _open(self, s: int) -> mmap.mmap:
        """Map a shard into memory, once it is what the index says."""
        shard = self.index.shards[s]
        path = self.folder / shard["name"]
        if Path(shard["name"]).is_absolute() or ".." in Path(shard["name"]).parts:
            raise damaged(path, "its name", "a path that leaves the folder")
        try:
            with open(path, "rb") as stream:
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # not there, or empty
            raise damaged(path, "the whole file", str(error)) from None
        # the size always: a map that reaches past the end of its file is no exception but the end of the process
        if len(data) != shard["bytes"] or self.verify and hashlib.sha256(data).hexdigest() != shard["sha256"]:
            raise damaged(path, _first_damaged(data, shard), "another sha256 than was written")
        self._maps[s] = data
        return data

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a worker process maps the files itself


@functools.lru_cache(maxsize=256)
def _header(head: bytes) -> tuple[np.dtype, tuple[int, ...], str]:
    """Read the header of an .npy file: dtype, shape, "C" or "F". Equal headers are read once."""
    if head[:8] != MAGIC:
        raise ValueError("not an .npy file of version 1.0")
    said = ast.literal_eval(head[10:].decode("latin1"))
    dtype = np.dtype(said["descr"])
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    return dtype, said["shape"], "F" if said["fortran_order"] else "C"


def _first_damaged(data: mmap.mmap, shard: dict[str, Any]) -> str:
    """Return the key of the first sample that is not what was written, or "between the samples"."""
    for member in shard["members"]:
        npy, n_npy, told, n_told = member["at"]
        for suffix, start, n in (("npy", npy, n_npy), ("json", told, n_told)):
            if hashlib.sha256(data[start : start + n]).hexdigest() != member[suffix]:
                return f"{member['key']}.{suffix}"
    return "between the samples"
