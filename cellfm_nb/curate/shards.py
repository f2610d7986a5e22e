"""Pack arrays into tar shards a training run can stream, and read every one of them exactly once."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cellfm_nb.atomic import whole
from cellfm_nb.errors import InputError

Sample = tuple[str, np.ndarray, dict[str, Any]]  # key, array, metadata
KEY = re.compile(r"[A-Za-z0-9_-]+")  # no dots (readers split there), no separators


@dataclass(frozen=True)
class ShardIndex:
    """What the shards hold, so that any sample can be found, checked and counted without opening one.

    shards: [{"name", "bytes", "sha256" (of the file), "members"}], name relative to the index; in a data set of many
    movies also {"movie" (its digest), "split" ("train" | "validation")}. members: [{"key", "npy", "json" (sha256 of
    either), "at": [first byte of the npy, its length, first byte of the json, its length]}]. about: anything.
    """

    shards: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, in order."""
        return [member["key"] for shard in self.shards for member in shard["members"]]

    def __len__(self) -> int:
        return sum(len(shard["members"]) for shard in self.shards)

    def split(self, name: str) -> ShardIndex:
        """Return the shards of one side, "train" or "validation". Raises InputError when nothing is marked so."""
        shards = [shard for shard in self.shards if shard.get("split") == name]
        if not shards:
            raise InputError("There is no such part of the data set.", got=repr(name), do="Choose one that is there.",
                             expected=", ".join(sorted({s.get("split", "unmarked") for s in self.shards})) or "nothing")
        return ShardIndex(shards, self.about)

    def part(self, rank: int, world: int) -> ShardIndex:
        """Return every world-th sample from `rank` on: over the ranks (or workers), each sample exactly once."""
        if not 0 <= rank < world:
            raise InputError("There is no such part.", got=f"rank {rank} of {world}", expected=f"0 to {world - 1}",
                             do="Number ranks from 0.")
        mine = set(self.keys[rank::world])
        shards = [shard | {"members": [m for m in shard["members"] if m["key"] in mine]} for shard in self.shards]
        return ShardIndex(shards, self.about)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        with whole(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> ShardIndex:
        """Read what `save` wrote. Raises InputError when it is damaged."""
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError("There is no data set here.", where=path, got="no index of shards", expected="index.json",
                             do="Make one with `cellfm curate` or notebook 02, and give its folder.") from None
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError("The index of the shards is damaged.", where=Path(path).name, got=str(error),
                             expected="what write_shards writes", do="Run notebook 02 again.") from None


class ShardWriter:
    """Write samples into one tar file: members key.npy and key.json (the webdataset layout), no pickle, no times."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path, self._tar = Path(path), tarfile.open(path, "w")
        self.entry: dict[str, Any] = {"name": name or self.path.name, "bytes": 0, "sha256": "", "members": []}

    def add(self, key: str, files: dict[str, bytes]) -> None:
        """Append a sample's files {suffix: bytes}."""
        at = []
        for suffix, data in files.items():
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
            at += [self._tar.offset - 512 * -(-len(data) // 512), len(data)]  # the header may be several blocks
        self.entry["bytes"] = self._tar.offset
        self.entry["members"].append({"key": key} | {suffix: _sha(data) for suffix, data in files.items()} | {"at": at})

    def close(self) -> None:
        """Finish the file, and note its size and digest."""
        self._tar.close()
        with open(self.path, "rb") as stream:
            self.entry["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
            self.entry["bytes"] = stream.tell()


def write_shard(path: Path, samples: Iterable[Sample], name: str | None = None,
                about: dict[str, Any] | None = None) -> ShardIndex:
    """Write samples into one shard at path; name, what the index calls it (None: the file's own name)."""
    writer, names = ShardWriter(path, name), set()
    try:
        for key, array, meta in samples:
            writer.add(key, _files_of(key, array, meta, names))
    finally:
        writer.close()
    return ShardIndex([writer.entry], about or {})


def write_shards(prefix: Path, samples: Iterable[Sample], max_bytes: int = 1_000_000_000,
                 about: dict[str, Any] | None = None) -> ShardIndex:
    """Write samples into prefix-000000.tar, prefix-000001.tar, ..., a new one before max_bytes would be passed.

    Parameters: prefix, a path without its number; samples, (key, array, metadata): keys of letters, digits, - and _,
    metadata that JSON can hold; max_bytes per shard; about, anything to keep in the index.
    Returns: ShardIndex. The same samples give the same bytes.
    """
    writers, names = [], set()
    try:
        for key, array, meta in samples:
            files = _files_of(key, array, meta, names)
            size = sum(1024 + len(data) for data in files.values())
            if not writers or (writers[-1].entry["members"] and writers[-1].entry["bytes"] + size > max_bytes):
                if writers:
                    writers[-1].close()
                writers.append(ShardWriter(Path(f"{prefix}-{len(writers):06d}.tar")))
            writers[-1].add(key, files)
    finally:
        if writers:
            writers[-1].close()
    return ShardIndex([writer.entry for writer in writers], about or {})


def read_shards(paths: Path | Sequence[Path], index: ShardIndex | None = None
                ) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Read samples one after the other, each checked against the digest written with it.

    Parameters: paths, one shard or several; index, the samples to read (a `part` of it for one rank or worker) and
    their digests; None reads all. Yields (array, metadata; metadata["key"] is the key).
    Raises InputError naming the shard and member: damaged, missing, or with a path that leaves the archive.
    """
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        wanted = None
        if index is not None:
            known = [shard for shard in index.shards if named(path, shard["name"])]
            if not known:
                raise InputError("The index does not know this shard.", where=path.name, got=path.name, do="Give the "
                                 "shards of this index.", expected=", ".join(s["name"] for s in index.shards[:5]))
            wanted = {m["key"]: m for shard in known for m in shard["members"]}
            if not wanted:
                continue  # nothing of it is in this part
        held: dict[str, bytes] = {}
        for name, data in _members(path):
            key, _, suffix = name.partition(".")
            if wanted is not None and key not in wanted:
                continue
            held[suffix] = data
            if suffix == "json":  # written last: the sample is complete
                yield _sample(path, key, held, wanted[key] if wanted is not None else None)
                held = {}
                if wanted is not None:
                    del wanted[key]
        if wanted or held:
            missing = next(iter(wanted)) if wanted else key
            raise damaged(path, missing, "the shard ends before it")


def named(path: Path, name: str) -> bool:
    """Say whether a path is the shard an index calls `name` (which may hold a folder: movie/crops-000000.tar)."""
    parts = PurePosixPath(name).parts
    return path.parts[-len(parts):] == parts


def _files_of(key: str, array: np.ndarray, meta: dict[str, Any], names: set[str]) -> dict[str, bytes]:
    """Return {"npy": bytes, "json": bytes} of a sample; raise InputError on a key that is no name, or comes twice."""
    if not KEY.fullmatch(key) or key in names:
        raise InputError("This key can't name a sample.", got=repr(key),
                         expected="letters, digits, - and _, no key twice", do="Name the samples by movie and number.")
    names.add(key)
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    npy = stream.getvalue()
    return {"npy": npy, "json": json.dumps({**meta, "sha256": _sha(npy)}, sort_keys=True).encode()}


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the members in order, never unpacking anything to disk."""
    if not path.exists():
        raise InputError("There is no such shard.", where=path.name, expected="a tar file of crops",
                         do="Run notebook 02 again.")
    name = "its first member"
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                name = info.name
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not info.isfile():
                    raise InputError("The archive holds a member that could leave it.", where=f"{path.name}: {name}",
                                     expected="plain files with plain names", do="Don't use this file; who made it?")
                yield name, tar.extractfile(info).read()
    except (tarfile.ReadError, OSError) as error:
        raise damaged(path, name, str(error)) from None


def _sample(path: Path, key: str, files: dict[str, bytes], digests: dict[str, str] | None
            ) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        meta = json.loads(files["json"])
        known = {"npy": meta.pop("sha256")} | ({} if digests is None else {s: digests[s] for s in ("npy", "json")})
        for suffix, sha in known.items():
            if _sha(files[suffix]) != sha:
                raise ValueError(f"{key}.{suffix} has another digest than was written")
        return np.load(io.BytesIO(files["npy"]), allow_pickle=False), {"key": key, **meta}
    except (ValueError, KeyError, EOFError) as error:
        raise damaged(path, key, str(error)) from None


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def damaged(path: Path, member: str, got: str) -> InputError:
    return InputError("A shard is damaged.", where=f"{path.name}: {member}", got=got,
                      expected="the bytes that were written", do="Delete the shard and run notebook 02 again.")
