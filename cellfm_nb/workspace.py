"""The folder a run lives in: artifacts written whole or not at all, each with its provenance, none made twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cellfm_nb import profiles
from cellfm_nb.arguments import describe, plain
from cellfm_nb.atomic import remove, replace, write_json
from cellfm_nb.errors import InputError
from cellfm_nb.here import current_notebook, pick_device, resolve
from cellfm_nb.journal import Journal
from cellfm_nb.progress import busy, clock
from cellfm_nb.provenance import (
    HASH_LIMIT_BYTES,
    code_digest,
    content_digest,
    digest,
    glance,
    now,
    signature,
    versions,
)

# Which notebook makes what: the longest matching prefix wins.
MAKERS = {
    "movie.ome.zarr": "01_meet_the_movie", "stack.ome.zarr": "01_meet_the_movie", "truth": "01_meet_the_movie",
    "curate": "02_curate_movies", "pretrain": "03_pretrain_encoder", "repair": "05_repair_defects",
    "stream": "06_stream_whole_volume", "movie.ome.zarr/labels": "07_segment_instances",
    "segment": "07_segment_instances", "track": "08_track_and_find_events", "figures": "10_figures_and_report",
    "report.html": "10_figures_and_report",
}  # fmt: skip
# stages that come after the last reader of summary.json
AFTERWARDS = ("figures", "own_data", "many_movies", "real_tracks")


class Workspace:
    """Open a run: its artifacts, their provenance, its profile, seed and device.

    Use `Workspace.open`. Names of artifacts are paths inside the folder ("curate/quality.csv").
    """

    def __init__(self, folder: Path, label: str, profile: str, seed: int, device: str) -> None:
        self.folder, self.label, self.profile, self.seed, self._device = folder, label, profile, seed, device
        self.notebook = current_notebook()
        self.journal = Journal(folder / "workspace.json", label)

    @classmethod
    def open(cls, folder: str | Path = "runs/demo", profile: str = "tiny", seed: int = 0,
             device: str = "auto") -> Workspace:
        """Open or create the folder of a run.

        Parameters: folder, relative to where `cellfm` was started (or to the project, from a notebook); profile
        "tiny" | "workshop" | "full"; seed, the run's one seed; device "auto" | "cpu" | "cuda".
        Raises InputError: unknown profile or device, a folder that can't be written.
        """
        profiles.check(profile)
        if device != "auto":  # auto is looked at when it is needed: asking torch takes seconds
            pick_device(device)
        path = resolve(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with open(path / ".writable", "w"):
                pass
            (path / ".writable").unlink()
        except OSError as error:
            raise InputError("The workspace can't be written.", where=folder, got=error.strerror,
                             expected="a folder you may write to", do="Choose another with --workspace.") from None
        label = path.name if Path(folder).is_absolute() else str(folder)  # results never show where a disk is mounted
        ws = cls(path, label, profile, int(seed), device)
        with ws.journal.edit() as record:
            record.update(format=1, profile=profile, seed=int(seed), device=device, versions=versions())
        return ws

    # where things are

    def path(self, name: str) -> Path:
        """Return the place of an artifact, there or not."""
        return self.folder / name

    def has(self, name: str) -> bool:
        """Say whether an artifact is there, whole."""
        return self.path(name).exists()

    def read(self, name: str) -> Path:
        """Return the place of an artifact and note that this notebook reads it.

        Raises InputError naming the notebook that makes it, when it is not there.
        """
        if not self.has(name):
            maker = next((MAKERS[k] for k in sorted(MAKERS, key=len, reverse=True)
                          if name == k or name.startswith(k + "/")), None)
            raise InputError(f"This run has no {name} yet.", where=self.label, got="nothing there",
                             expected=f"{name}, written by notebook {maker or 'an earlier notebook'}",
                             do=f"Run notebook {maker} first." if maker else "Run the earlier notebooks first.")
        self._note("reads", name)
        return self.path(name)

    def watch(self, path: str | Path) -> Path:
        """Return a path that no notebook makes (a person's file, another run's folder); a change there counts.

        Parameters: path, as a person gives it (see `resolve`), or inside the run; it need not be there yet.
        A notebook that watches it is run again when it has changed, come or gone.
        """
        path, home = resolve(path), resolve(".")
        self._note("watches", str(path.relative_to(home) if path.is_relative_to(home) else path))
        return path

    # making things

    def make(self, names: str | Sequence[str], function: Callable[..., object], *args: Any, resume: bool = False,
             **kwargs: Any) -> Path | list[Path]:
        """Make artifacts by calling function(path, ..., *args, **kwargs), unless they are there, made from the same.

        Parameters: names, one artifact or several; function, a module-level writer whose first arguments are the
        temporary paths to write; args and kwargs, plain values, dataclasses, arrays, and paths: a path inside the
        run counts as that artifact, a path elsewhere by its content. resume: leave a killed attempt's partial files
        (same code, inputs and parameters) for the writer to go on from.
        Returns: the final path, or the list of them. The key of an artifact is the digest of the writer's code,
        parameters and inputs; equal key and untouched files mean the work is skipped.
        """
        single = isinstance(names, str)
        names = [names] if single else list(names)
        start = time.monotonic()
        params = describe({"args": args, "kwargs": kwargs}, self._artifact)
        key = digest({"function": f"{function.__module__}.{function.__qualname__}",
                      "code": code_digest(function.__module__), "params": params})
        paths = [self.path(name) for name in names]
        if all(self._fresh(name, key) for name in names):
            print(f"{', '.join(names)}: unchanged, skipped in {clock(time.monotonic() - start)}")
        else:
            partial = [self._partial(path, key, keep=resume) for path in paths]
            try:
                with busy(names[0], self.artifacts.get(names[0], {}).get("seconds")):
                    function(*partial, *args, **kwargs)
                for temporary, path in zip(partial, paths, strict=True):
                    replace(temporary, path)
            except BaseException:
                if not resume:
                    for temporary in partial:
                        remove(temporary)
                raise
            seconds = time.monotonic() - start
            for name, path in zip(names, paths, strict=True):
                size, stat = signature(path)
                entry = {"by": self.notebook, "when": now(), "seconds": round(seconds, 3), "key": key, "bytes": size,
                         "stat": stat, "sha256": content_digest(path) if size <= HASH_LIMIT_BYTES else None,
                         "function": f"{function.__module__}.{function.__qualname__}", "params": params,
                         "profile": self.profile, "seed": self.seed, "device": self._device}
                with self.journal.edit() as record:
                    record.setdefault("artifacts", {})[name] = entry
            print(f"{', '.join(names)}: written in {clock(seconds)}")
        for name in names:
            self._note("writes", name)
        return paths[0] if single else paths

    def identity(self, name: str) -> str:
        """Return the content digest of an artifact (its key where it is too large to hash)."""
        entry = self.artifacts.get(name)
        if name == "summary.json":  # without what differs from run to run, and the stages that come after its readers
            return digest({stage: {k: v for k, v in row.items() if k not in ("seconds", "peak_mib")}
                           for stage, row in self.summary.items() if stage not in AFTERWARDS})
        path = self.path(name)
        size, stat = signature(path)
        if entry and entry["stat"] == stat:
            return entry["sha256"] or entry["key"]
        return content_digest(path) if size <= HASH_LIMIT_BYTES else f"stat:{stat}"

    @property
    def artifacts(self) -> dict[str, dict[str, Any]]:
        """What was written, when, by which notebook, from what."""
        return self.journal.load().get("artifacts", {})

    def _fresh(self, name: str, key: str) -> bool:
        entry = self.artifacts.get(name)
        return bool(entry) and entry["key"] == key and self.has(name) and signature(self.path(name))[1] == entry["stat"]

    def _partial(self, path: Path, key: str, keep: bool) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.parent / f".partial-{key[:12]}-{path.name}"
        for old in path.parent.glob(f".partial-*-{path.name}"):
            if old != mine or not keep:
                remove(old)
        return mine

    def _artifact(self, path: Path) -> dict[str, Any] | None:
        """Return what stands for a path inside the run (None for one outside): its name and identity."""
        if not path.resolve().is_relative_to(self.folder.resolve()):
            return None
        name = path.resolve().relative_to(self.folder.resolve()).as_posix()
        return {"artifact": name, "id": self.identity(name) if path.exists() else None}

    # what a run is told and tells

    @property
    def device(self) -> str:
        """The device to compute on: "cuda" or "cpu".

        Raises InputError when "cuda" was asked for and there is none.
        """
        return pick_device(self._device)

    def settings(self, stage: str, **overrides: Any) -> Any:
        """Return the sizes of a stage in this run's profile, with the overrides that are not None."""
        return profiles.settings(self.profile, stage, **overrides)

    def record(self, stage: str, **numbers: Any) -> dict[str, Any]:
        """Write metrics of a stage into summary.json, {stage: {metric: number}}; return that stage's metrics."""
        with self.journal.lock():
            summary = self.summary
            summary.setdefault(stage, {}).update({k: plain(v) for k, v in numbers.items()})
            write_json(self.path("summary.json"), summary)
        if self.notebook:
            with self.journal.edit() as record:
                record.setdefault("notebooks", {}).setdefault(self.notebook, {})["stage"] = stage
        return summary[stage]

    @property
    def summary(self) -> dict[str, dict[str, Any]]:
        """The metrics recorded so far, {stage: {metric: number}}.

        A look, not an input: a notebook that depends on other stages' numbers says ws.read("summary.json").
        """
        path = self.path("summary.json")
        return json.loads(path.read_text()) if path.exists() else {}

    def claim_movie(self, movie: str | Path | None) -> None:
        """Bind this run to one movie (None: the default one).

        Raises InputError when the folder already holds a run on another movie.
        """
        mine = {"name": "default", "id": "default", "path": None} if movie is None else \
            {"name": Path(movie).name, "id": glance(resolve(movie)), "path": str(movie)}
        theirs = self.journal.load().get("movie")
        if theirs and theirs["id"] != mine["id"]:
            changed = ", whose content has changed since" if theirs["name"] == mine["name"] else ""
            raise InputError("This workspace belongs to another movie.", where=self.label, got=mine["name"] + changed,
                             expected=theirs["name"], do="Give this movie a folder of its own with --workspace.")
        with self.journal.edit() as record:
            record["movie"] = mine

    def _note(self, kind: str, name: str) -> None:
        if self.notebook:
            with self.journal.edit() as record:
                entry = record.setdefault("notebooks", {}).setdefault(self.notebook, {})
                entry[kind] = sorted({*entry.get(kind, []), name})

    def __repr__(self) -> str:
        n = len(self.artifacts)
        return f"Workspace {self.label}: profile {self.profile}, seed {self.seed}, device {self._device}, {n} artifacts"


def recorded_movie(folder: str | Path) -> str | None:
    """Return the movie a run's folder is bound to, as it was given; None for the default one, or without a run."""
    try:
        return json.loads((resolve(folder) / "workspace.json").read_text()).get("movie", {}).get("path")
    except (OSError, json.JSONDecodeError):
        return None
