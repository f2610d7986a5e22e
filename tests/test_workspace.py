"""Artifacts whole or absent, provenance, and work not done twice."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest

from cellfm_nb import provenance as files
from cellfm_nb.arguments import describe
from cellfm_nb.errors import InputError
from cellfm_nb.workspace import Workspace

calls = []


def write_text(path, text="x"):
    calls.append(text)
    path.write_text(text)


def write_two(first, second, n):
    first.write_text(str(n))
    second.mkdir()
    (second / "part").write_text(str(n))


def write_and_fail(path):
    path.write_text("half")
    raise RuntimeError("killed")


def copy_upper(path, source):
    calls.append("copy")
    path.write_text(source.read_text().upper())


def go_on(path):
    """A resumable writer: fails after three lines the first time, then adds what is missing."""
    done = path.read_text().splitlines() if path.exists() else []
    for i in range(len(done), 6):
        with open(path, "a") as f:
            f.write(f"{i}\n")
        if i == 2 and not done:
            raise RuntimeError("killed")


@dataclasses.dataclass(frozen=True)
class Options:
    size: int = 3


@pytest.fixture
def ws(tmp_path):
    calls.clear()
    return Workspace.open(tmp_path / "run")


def test_made_once_then_skipped(ws, capsys):
    for _ in range(2):
        assert ws.make("curate/a.txt", write_text, text="hello").read_text() == "hello"
    assert calls == ["hello"]
    assert re.search(r"unchanged, skipped in 0\.\d s", capsys.readouterr().out)


@pytest.mark.parametrize("change", ["parameter", "touched", "deleted"])
def test_made_again_when_something_changed(ws, change):
    path = ws.make("a.txt", write_text, text="1")
    if change == "touched":
        path.write_text("22")
    if change == "deleted":
        path.unlink()
    ws.make("a.txt", write_text, text="2" if change == "parameter" else "1")
    assert len(calls) == 2


def test_inputs_count_by_content(ws):
    source = ws.make("a.txt", write_text, text="one")
    ws.make("b.txt", copy_upper, source)
    ws.make("b.txt", copy_upper, ws.read("a.txt"))
    assert calls == ["one", "copy"]
    ws.make("a.txt", write_text, text="two")
    assert ws.make("b.txt", copy_upper, ws.read("a.txt")).read_text() == "TWO"


def test_arrays_and_dataclasses_count_by_value():
    assert describe(np.arange(3)) == describe(np.arange(3)) != describe(np.arange(3) + 1)
    assert describe(np.arange(3)) != describe(np.arange(3.0))
    assert describe(Options()) == describe(Options(3)) != describe(Options(4))
    words = pd.DataFrame({"name": ["a", "bc"], "n": [1, 2]})  # object columns hold pointers, which change
    assert describe(words) == describe(words.copy(deep=True)) != describe(words.assign(n=3))
    json.dumps([describe(np.ones((2, 2))), describe(Options()), describe(write_text), describe(np.float32(1))])


def test_several_artifacts_at_once_and_folders(ws):
    first, second = ws.make(["t/a.csv", "t/folder"], write_two, n=1)
    ws.make(["t/a.csv", "t/folder"], write_two, n=2)
    assert (second / "part").read_text() == first.read_text() == "2"
    assert not list(ws.folder.rglob(".partial*")) and not list(ws.folder.rglob(".old*"))


def test_a_failing_writer_leaves_nothing(ws):
    with pytest.raises(RuntimeError):
        ws.make("a.txt", write_and_fail)
    assert not ws.has("a.txt") and not list(ws.folder.glob(".partial*")) and "a.txt" not in ws.artifacts


def test_a_resumable_writer_goes_on(ws):
    with pytest.raises(RuntimeError):
        ws.make("a.txt", go_on, resume=True)
    assert not ws.has("a.txt")
    assert ws.make("a.txt", go_on, resume=True).read_text().split() == list("012345")


def test_provenance_says_who_from_what(ws, monkeypatch):
    ws.notebook = "02_curate_movies"
    source = ws.make("a.txt", write_text, text="one")
    ws.make("b.txt", copy_upper, source)
    entry = ws.artifacts["b.txt"]
    assert entry["by"] == "02_curate_movies" and entry["bytes"] == 3 and len(entry["sha256"]) == 64
    assert entry["params"]["args"] == [{"artifact": "a.txt", "id": ws.artifacts["a.txt"]["sha256"]}]
    record = json.loads((ws.folder / "workspace.json").read_text())
    assert record["notebooks"]["02_curate_movies"]["writes"] == ["a.txt", "b.txt"]
    assert record["versions"]["torch"].startswith("2.")


def test_missing_artifact_names_the_notebook(ws):
    with pytest.raises(InputError, match="03_pretrain_encoder"):
        ws.read("pretrain/encoder.safetensors")
    with pytest.raises(InputError, match="07_segment_instances"):
        ws.read("movie.ome.zarr/labels/objects")


def test_labels_inside_a_movie_do_not_change_it(ws):
    movie = ws.path("movie.ome.zarr")
    (movie / "0").mkdir(parents=True)
    (movie / "0" / "c").write_text("voxels")
    before = files.content_digest(movie), files.signature(movie)
    (movie / "labels").mkdir()
    (movie / "labels" / "x").write_text("labels")
    assert (files.content_digest(movie), files.signature(movie)) == before
    (movie / "0" / "c").write_text("other")
    assert files.content_digest(movie) != before[0]


def test_summary_keeps_numbers_and_nulls(ws):
    ws.record("score", f1=np.float32(0.5), bad=float("nan"), n=3)
    ws.record("score", hota=0.25)
    assert ws.summary == {"score": {"f1": 0.5, "bad": None, "n": 3, "hota": 0.25}}
    before = ws.identity("summary.json")
    ws.record("score", seconds=3.0)
    assert ws.identity("summary.json") == before  # time spent is no input


def test_another_movie_is_refused(ws, tmp_path):
    (tmp_path / "a.tif").write_bytes(b"1")
    (tmp_path / "b.tif").write_bytes(b"22")
    ws.claim_movie(tmp_path / "a.tif")
    ws.claim_movie(tmp_path / "a.tif")
    with pytest.raises(InputError, match="another movie"):
        ws.claim_movie(tmp_path / "b.tif")
    with pytest.raises(InputError, match="another movie"):
        ws.claim_movie(None)


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(InputError, match="tiny, workshop, full"):
        Workspace.open(tmp_path, profile="huge")
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        Workspace.open(tmp_path, device="tpu")
    with pytest.raises(InputError, match="Unknown setting of curate"):
        Workspace.open(tmp_path).settings("curate", cropshape=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        Workspace.open(tmp_path / "file" / "run")


def test_damaged_record_is_said(ws):
    ws.path("workspace.json").write_text("{half")
    with pytest.raises(InputError, match="damaged"):
        Workspace.open(ws.folder)


def test_code_counts_but_bookkeeping_does_not():
    assert files.code_digest("cellfm_nb.seeds") != files.code_digest("cellfm_nb.errors")
    assert files.code_digest("cellfm_nb.seeds") == files.code_digest("cellfm_nb.seeds")


def test_no_absolute_path_in_what_is_shown(ws):
    assert str(ws.folder) not in repr(ws)
    ws.make("a.txt", write_text, text="1")
    assert str(ws.folder) not in (ws.folder / "workspace.json").read_text()
