"""The datasets of data_manifest.yaml: list them, fetch them, verify them.

A dataset is looked for in the folders of CELLFM_DATA, then in the cache (CELLFM_CACHE, or the user's cache folder),
then fetched: from the package index pip is configured for, from a repository at one commit, or from its URL. Nothing is
used before its sha256 is checked; what has no published sha256, or must be asked for, is listed with its page.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import platformdirs
import yaml

from cellfm_nb.errors import InputError, Unreachable
from cellfm_nb.manifest.archive import Wanted, check_file, unpack

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Member:
    """One file of a dataset; axes, shape, dtype, spacing (z, y, x) in um and interval in s where they are known."""

    path: str
    sha256: str
    bytes: int
    axes: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    dt_s: float | None = None


@dataclass(frozen=True)
class Dataset:
    """One entry of the manifest.

    source: package, artifact, member_prefix | repository, commit, member_prefix | url | page (to be read by a person).
    verified: the source was tried and gave these bytes; False: taken from `recorded_in`.
    """

    name: str
    title: str
    source: Mapping[str, str]
    licence: str
    redistribution: str
    citation: str
    sha256: str | None = None
    bytes: int | None = None
    members: tuple[Member, ...] = ()
    axes: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    dt_s: float | None = None
    optics: Mapping[str, float] = field(default_factory=dict)
    caveat: str = ""
    recorded_in: str = ""
    verified: bool = True

    @property
    def artifact(self) -> str:
        """Name of the file that is downloaded."""
        return self.source.get("artifact") or PurePosixPath(urlsplit(self.source.get("url", "")).path).name or self.name

    @property
    def fetchable(self) -> bool:
        """Whether it can be fetched and checked without a person."""
        return "package" in self.source or "repository" in self.source or ("url" in self.source and bool(self.sha256))

    def files(self) -> tuple[Member, ...]:
        """The files a user gets: the members, or the downloaded file itself."""
        return self.members or (Member(self.artifact, self.sha256 or "", self.bytes or -1, self.axes),)


def load_manifest(path: Path | None = None) -> dict[str, Dataset]:
    """Read the manifest: {name: Dataset}. Raises InputError when it is malformed."""
    here = Path(__file__).parents[1]
    path = path or next(p for p in (here / "data_manifest.yaml", here.parent / "data_manifest.yaml") if p.exists())
    return dict(_load(path))


@functools.cache
def _load(path: Path) -> Mapping[str, Dataset]:
    try:
        entries = [_entry(Dataset, e | {"members": tuple(_entry(Member, m) for m in e.get("members") or ())})
                   for e in yaml.safe_load(path.read_text(encoding="utf-8"))]
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise InputError("The data manifest is malformed.", where=path, got=" ".join(str(error).split()),
                         expected=", ".join(f.name for f in fields(Dataset)), do="Correct that entry.") from None
    return {entry.name: entry for entry in entries}


def _entry(kind: type, values: dict[str, Any]) -> Any:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def dataset(name: str) -> Dataset:
    """Return one entry. Raises InputError listing the names there are."""
    known = load_manifest()
    if name not in known:
        raise InputError("There is no such dataset.", where="data_manifest.yaml", got=name, expected=", ".join(known),
                         do="Choose one of them; `cellfm data list` describes them.")
    return known[name]


def cache_folder() -> Path:
    """Return the folder fetched data go to: CELLFM_CACHE, or the user's cache."""
    return Path(os.environ.get("CELLFM_CACHE") or platformdirs.user_cache_dir("cellfm_nb", appauthor=False))


def search_path() -> list[Path]:
    """Return the folders a dataset is looked for in: those of CELLFM_DATA, the packaged weights, the cache."""
    given = [Path(p).expanduser() for p in os.environ.get("CELLFM_DATA", "").split(os.pathsep) if p]
    return [*given, Path(__file__).parents[1] / "weights", cache_folder()]


def locate(name: str) -> dict[str, Path] | None:
    """Return {file: path} of a dataset that is on this machine, unpacked; None when it is not. Nothing is verified."""
    entry = dataset(name)
    for folder in search_path():
        if not entry.fetchable and not entry.members:  # whatever a person has put there
            files = sorted(p for p in (folder / name).rglob("*") if p.is_file())
            found = {p.relative_to(folder / name).as_posix(): p for p in files}
        else:
            found = {m.path: folder / name / m.path for m in entry.files()}
        if found and all(path.is_file() for path in found.values()):
            return found
    return None


def is_local(name: str) -> bool:
    """Say whether a dataset is on this machine, unpacked or as its artifact."""
    return locate(name) is not None or _local_artifact(dataset(name)) is not None


def _local_artifact(entry: Dataset) -> Path | None:
    found = (folder / entry.artifact for folder in search_path())
    return next((path for path in found if entry.members and path.is_file()), None)


def verify(name: str) -> dict[str, Path]:
    """Check the sha256 of every file of a dataset on this machine and return {file: path}.

    What a person has put there and no checksum is published for (see `Dataset.fetchable`) is returned unchecked.
    Raises InputError: not there, or a file that is not the published one.
    """
    entry, found = dataset(name), locate(name)
    if found is None:
        raise InputError("This dataset is not on this machine.", where=os.pathsep.join(map(str, search_path())),
                         got=f"no {name}", expected=", ".join(m.path for m in entry.files()),
                         do=f"Fetch it: cellfm data fetch {name}" if entry.fetchable else
                         f"Get it from {entry.source.get('page', entry.artifact)}, into {cache_folder() / name}.")
    for member in entry.files() if entry.fetchable or entry.members else ():
        check_file(found[member.path], member.sha256 or None, member.bytes if member.bytes >= 0 else None,
                   f"{member.path} of {name}")
    return found


def fetch(name: str, progress: bool = True) -> dict[str, Path]:
    """Get a dataset and return {file: path}, verified; what is on this machine is not fetched again.

    Raises: Unreachable when no source answers (one line saying what was tried); InputError on an unknown name or a
    checksum mismatch, in which case nothing is left under a final name.
    """
    from filelock import FileLock

    entry = dataset(name)
    if locate(name):
        return verify(name)
    if not entry.fetchable:
        where = entry.source.get("page") or entry.source["url"]
        raise InputError("This dataset can't be fetched for you.", where=where,
                         got=f"licence: {entry.licence}; no checksum", expected="a file with a published sha256",
                         do=f"Get it there under its own conditions, and unpack it into {cache_folder() / name}.")
    folder = cache_folder()
    try:
        (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("The cache can't be written.", where=folder, got=error.strerror, expected="a folder you may "
                         "write to", do="Set CELLFM_CACHE to one.") from None
    with FileLock(folder / f".{name}.lock"):
        if locate(name):  # another process was faster
            return verify(name)
        if "package" in entry.source:
            _unpack_artifact(entry, folder, progress)
        else:
            _download_files(entry, folder / name, progress)
    return verify(name)


def _unpack_artifact(entry: Dataset, folder: Path, progress: bool) -> None:
    from cellfm_nb.manifest.package_index import download_artifact

    artifact = _local_artifact(entry)
    fetched = None
    if artifact is None:
        artifact = fetched = folder / f".partial-{entry.artifact}"  # kept when interrupted, and gone on from
        download_artifact(entry.source["package"], entry.artifact, fetched, entry.bytes, progress)
    prefix = entry.source.get("member_prefix", "")
    try:
        check_file(artifact, entry.sha256, entry.bytes, entry.artifact)
        unpack(artifact, {prefix + m.path: Wanted(folder / entry.name / m.path, m.sha256, m.bytes)
                          for m in entry.members})
    finally:
        if fetched:
            fetched.unlink(missing_ok=True)


def _download_files(entry: Dataset, folder: Path, progress: bool) -> None:
    """Download each file of a url or a repository; it gets its name when its sha256 is right."""
    import requests

    from cellfm_nb.manifest.package_index import download

    base = "https://raw.githubusercontent.com/{repository}/{commit}/{member_prefix}"
    for member in entry.files():
        url = entry.source.get("url") or base.format_map(entry.source) + quote(member.path)
        to, partial = folder / member.path, folder / f".partial-{member.path.replace('/', '-')}"
        to.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(InputError, FileNotFoundError):  # fetched before an interruption
            check_file(to, member.sha256, None, member.path)
            continue
        try:  # what an interrupted download left is gone on from
            download(url, partial, size=member.bytes if member.bytes >= 0 else None,
                     what=member.path if progress else None)
        except requests.RequestException as error:
            raise Unreachable(f"{entry.name} could not be fetched; tried {url} ({type(error).__name__}).") from None
        try:
            check_file(partial, member.sha256, member.bytes if member.bytes >= 0 else None, member.path)
        except InputError:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(to)


def listing() -> pd.DataFrame:
    """Return one row per dataset: name, MB, licence, whether it is here, its source and if it was tried, what it is."""
    import pandas as pd

    rows = [{"name": e.name, "MB": round(e.bytes / 1e6, 1) if e.bytes else None, "licence": e.licence,
             "here": "yes" if is_local(e.name) else "no",
             "source": e.source.get("package") or next(k for k in ("repository", "url", "page") if k in e.source),
             "verified": "yes" if e.verified else "no", "fetch": "yes" if e.fetchable else "by hand", "title": e.title}
            for e in load_manifest().values()]
    return pd.DataFrame(rows)
