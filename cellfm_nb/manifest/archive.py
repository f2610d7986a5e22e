"""Take chosen files out of a downloaded archive, trusting nothing it says about where they go."""

from __future__ import annotations

import hashlib
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

from cellfm_nb.atomic import whole
from cellfm_nb.errors import InputError


class Wanted(NamedTuple):
    """One member to take out: where to, and how to know it is the right one."""

    to: Path
    sha256: str
    bytes: int


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, sha256: str | None, size: int | None, what: str) -> None:
    """Raise InputError unless the file has this size and sha256 (None: not known)."""
    expected = f"sha256 {sha256}"
    if size is not None and path.stat().st_size != size:
        got, expected = f"{path.stat().st_size} bytes", f"{size} bytes"
    elif sha256 is not None and (digest := sha256_of(path)) != sha256:
        got = f"sha256 {digest}"
    else:
        return
    raise InputError(f"Checksum mismatch: {what} is not the published file.", where=path, got=got, expected=expected,
                     do="Delete that file and fetch it again.")


def unpack(archive: Path, members: Mapping[str, Wanted]) -> None:
    """Take the wanted members out of a .tar.*, .zip or .whl; each is checked and then appears under its final name.

    Raises InputError: not an archive; any member whose name is absolute or climbs with "..", a wanted member that is
    a link or not there, a wrong size or sha256. Names are checked before anything is written.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                found = {i.filename: i for i in file.infolist()}
                _check_names(archive, list(found), members)
                for name, wanted in members.items():
                    info = found[name]
                    _check_member(archive, name, stat.S_ISLNK(info.external_attr >> 16) or info.is_dir(),
                                  info.file_size, wanted)
                    with file.open(info) as stream:
                        _write(stream, archive, name, wanted)
        else:
            with tarfile.open(archive) as file:
                found = {m.name: m for m in file.getmembers()}
                _check_names(archive, list(found), members)
                for name, wanted in members.items():
                    _check_member(archive, name, not found[name].isfile(), found[name].size, wanted)
                    stream = file.extractfile(found[name])
                    assert stream is not None  # a regular file, checked above
                    _write(stream, archive, name, wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's fault, not the archive's
            raise
        raise InputError("This archive can't be read.", where=archive, got=str(error) or type(error).__name__,
                         expected="a complete .tar.gz, .zip or .whl", do="Delete it and fetch it again.") from None


def _check_names(archive: Path, names: list[str], members: Mapping[str, Wanted]) -> None:
    for name in names:
        path = PureWindowsPath(name)  # knows both slashes, and drives
        if path.drive or path.root or ".." in path.parts:
            raise InputError("This archive wants to write outside its folder.", where=archive, got=name,
                             expected="relative names without ..", do="Do not use it; fetch it from the package index.")
    if missing := [name for name in members if name not in names]:
        raise InputError("This archive lacks files of the dataset.", where=archive, got=f"no {', '.join(missing)}",
                         expected=f"{len(members)} files", do="Fetch the version the manifest names.")


def _check_member(archive: Path, name: str, special: bool, size: int, wanted: Wanted) -> None:
    if special or size != wanted.bytes:
        raise InputError("A file of this archive is not the published one.", where=f"{archive.name}: {name}",
                         got="a link or folder" if special else f"{size} bytes",
                         expected=f"a file of {wanted.bytes} bytes", do="Delete the archive and fetch it again.")


def _write(stream: IO[bytes], archive: Path, name: str, wanted: Wanted) -> None:
    with whole(wanted.to) as partial:
        state = hashlib.sha256()
        with open(partial, "wb") as file:
            while block := stream.read(1 << 20):
                state.update(block)
                file.write(block)
        if state.hexdigest() != wanted.sha256:
            raise InputError(f"Checksum mismatch: {name} is not the published file.", where=archive,
                             got=f"sha256 {state.hexdigest()}", expected=f"sha256 {wanted.sha256}",
                             do="Delete the archive and fetch it again.")
