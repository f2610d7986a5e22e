"""Figure files and the report: complete, deterministic, self-contained, without paths, whatever is missing."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.view import cite, figures, page, plots, report
from cellfm_nb.workspace import Workspace

TABLE = pd.DataFrame({"step": range(20), "loss": 1 / np.arange(1, 21)})


def picture():
    return plots.curves(TABLE, "step", ["loss"], ylabel="loss (nats)")


def test_a_figure_is_written_four_ways_and_the_csv_is_the_data(tmp_path):
    paths = figures.save_figure(picture(), TABLE, tmp_path / "deep" / "loss.v1")
    assert [p.name for p in paths] == ["loss.v1.svg", "loss.v1.png", "loss.v1.pdf", "loss.v1.csv"]
    heads = [p.read_bytes()[:5] for p in paths]
    assert heads[0] == b"<?xml" and heads[1][1:4] == b"PNG" and heads[2] == b"%PDF-"
    pd.testing.assert_frame_equal(pd.read_csv(paths[3]), TABLE)
    assert "loss (nats)" in paths[0].read_text()  # text stays text


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first, second = (figures.save_figure(picture(), TABLE, tmp_path / name) for name in "ab")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.suffix


def test_a_run_keeps_a_figure_until_it_changes(tmp_path, capsys):
    ws = Workspace.open(tmp_path / "run")
    for _ in range(2):
        assert figures.keep(ws, "loss", picture(), TABLE) is not None
    assert "written" in (out := capsys.readouterr().out) and "unchanged" in out
    figures.keep(ws, "loss", plots.curves(TABLE, "step", ["loss"], log=True), TABLE)
    assert "written" in capsys.readouterr().out
    figures.keep(ws, "nothing", plots.curves(TABLE[:0], "step", ["loss"]), TABLE[:0])
    assert not ws.has("figures/nothing.png")
    assert all(ws.has(f"figures/loss{s}") for s in (".svg", ".png", ".pdf", ".csv"))


def write_table(path, source, frames=3):
    path.write_text(source.read_text())


@pytest.fixture
def run(tmp_path):
    """A run with most things in it, made by the real Workspace."""
    raw = tmp_path / "secret" / "stack.tif"
    raw.parent.mkdir()
    raw.write_text("pixels")
    ws = Workspace.open(tmp_path / "runs" / "demo")
    ws.notebook = "02_curate_movies"
    ws.make("curate/quality.csv", write_table, raw, frames=5)
    ws.claim_movie(None)
    (ws.folder / "truth").mkdir()
    made = {"made_with": {"psf": f"measured on {tmp_path}/psf.tif", "camera": {"source": "measured on im_raw.tif"}}}
    (ws.folder / "truth" / "scene.json").write_text(json.dumps(made))
    ws.record("curate", seconds=3.2, peak_mib=412, crops=192, signal_gain=3.41234567)
    ws.record("track", seconds=2.0, peak_mib=300, n_tracks=61, rmse_z_um=0.04321, rank=float("nan"),
              source=str(raw), note="<b>bold</b>")
    ws.record("score", link_f1=0.934, trackpy_link_f1=0.871, detection_f1=0.95, trackpy_detection_f1=0.95,
              id_switches=4, trackpy_id_switches=2)
    with ws.journal.edit() as record:
        record["notebooks"]["02_curate_movies"].update(status="done", seconds=3.2, peak_mib=412,
                                                       parameters={"crop": None, "path": str(raw)})
    figures.keep(ws, "learning_curves", picture(), TABLE)
    return ws


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.words.append(data)


def parsed(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page, " ".join(" ".join(page.words).split())


def test_the_report_is_one_self_contained_file(run):
    path = report.build(run.folder)
    html = path.read_text(encoding="utf-8")
    found, words = parsed(path)
    assert "script" not in found.tags and "link" not in found.tags and "@import" not in html
    assert found.tags.count("img") == 1
    assert found.sources and all(s.startswith("data:image/") for s in found.sources)
    assert base64.b64decode(found.sources[0].partition(",")[2])[:4] == b"\x89PNG"
    assert "url(" not in html and path.stat().st_size < 5e6
    assert 'name="viewport"' in html and "@media print" in html
    for phrase in ("simulated movie", "PSF was measured on psf.tif", "Profile tiny, seed 0", "numpy", "crop = None",
                   "Time and memory", "How to cite"):  # fmt: skip
        assert phrase in words, phrase


def test_the_report_names_no_absolute_path(run, tmp_path):
    html = report.build(run.folder).read_text(encoding="utf-8")
    assert str(tmp_path) not in html and "/secret" not in html
    outside = re.sub(r"base64,[^\"]+", "", html)
    assert not re.search(r"[\"'\s>(](/[\w.-]+){2,}", outside)
    assert "stack.tif" in outside  # but it says which file went in
    assert "<b>bold</b>" not in outside


def test_paths_are_cut_and_ordinary_slashes_are_left():
    kept = "um/px, ratio 3/4, z/y/x, curate/quality.csv, runs/demo, 2026-01-01T00:00Z, and/or, 1/s"
    assert page.text(kept) == kept
    assert page.text("read /home/ann/x/movie.tif now") == "read movie.tif now"
    assert page.text(r"C:\Users\ann\movie.tif") == "movie.tif"


def test_scores_stand_beside_the_peer_with_the_better_in_bold(run):
    html = report.build(run.folder).read_text(encoding="utf-8")
    row = re.search(r"<tr><td class=\"\">Link F1.*?(?=<tr>|</table>)", html).group()
    assert re.findall(r'class="([^"]*)">([\d.]+)', row) == [("n best", "0.934"), ("n", "0.871")]
    tie = re.search(r"<tr><td class=\"\">Detection F1.*?(?=<tr>|</table>)", html).group()
    assert "best" not in tie
    fewer = re.search(r"<tr><td class=\"\">ID switches.*?(?=<tr>|</table>)", html).group()
    assert re.findall(r'class="([^"]*)">(\d)', fewer) == [("n", "4"), ("n best", "2")]  # fewer is better


def test_provenance_and_warnings_are_said(run):
    _, words = parsed(report.build(run.folder))
    assert "curate/quality.csv" in words and run.artifacts["curate/quality.csv"]["sha256"][:16] in words
    assert "Rank has no finite value" in words
    assert "Not in this run: pretraining, streaming, segmentation." in words


def test_quality_says_who_decided_and_what_was_left_out(run):
    header = "frame,snr,by,reason,verdict"
    rows = [f"{t},{5 + t},rule,,accept" for t in range(30)] + [f"{t},1,ann,dark <b>,reject" for t in range(30, 60)]
    (run.folder / "curate" / "quality.csv").write_text("\n".join([header, *rows]))
    (run.folder / "track").mkdir()
    (run.folder / "track" / "events.csv").write_text("kind,status\nsplit,confirmed\nsplit,candidate\nmerge,candidate\n")
    html = report.build(run.folder).read_text(encoding="utf-8")
    _, words = parsed(run.folder / "report.html")
    assert "60 frames: 30 accept, 30 reject, 0 unsure; decided by ann, rule" in words
    assert "The first 20 of 30." in words and words.count("dark <b>") == 20 and "dark <b>" not in html
    assert "3 splits and merges were found: 2 candidate, 1 confirmed" in words


def test_long_stages_are_folded_and_claims_have_their_own_place(run):
    run.record("repair", **{f"norm_{i}": i / 7 for i in range(40)})
    run.record("figures", **{"A02 stated": 1500.0})
    html = report.build(run.folder).read_text(encoding="utf-8")
    assert "<summary>24 more</summary>" in html and "A02 stated" not in html
    row = re.search(r'<tr><td class="" >A02.*?(?=<tr>|</table>)|<tr><td class="">A02.*?(?=<tr>|</table>)', html).group()
    assert "1,500 h" in row and "holds when" in row


def test_a_run_with_nothing_in_it_still_has_a_report(tmp_path):
    ws = Workspace.open(tmp_path / "empty")
    _, words = parsed(report.build(ws.folder))
    assert "No movie has been made or read" in words and "Nothing was scored" in words


def test_a_users_movie_is_called_real(tmp_path):
    (tmp_path / "mito.tif").write_text("x")
    ws = Workspace.open(tmp_path / "mito")
    ws.claim_movie(tmp_path / "mito.tif")
    _, words = parsed(report.build(ws.folder))
    assert "mito.tif" in words and "simulated movie" not in words


def test_a_folder_without_a_run_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="no run in this folder"):
        report.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_heavy_pictures_are_made_lighter(run):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (2200, 2600, 3), dtype=np.uint8)
    for name in ("a", "b"):
        Image.fromarray(noise).save(run.folder / "figures" / f"{name}.png")
    path = report.build(run.folder)
    found, _ = parsed(path)
    assert path.stat().st_size < 5e6 and any(s.startswith("data:image/jpeg") for s in found.sources)


@pytest.mark.parametrize(("value", "unit", "said"), [
    (0.123456, "", "0.1235"), (0.999632, "", "0.9996"),
    (12345.678, "", "12,346"), (3, "s", "3 s"), (1.0, "", "1"), (2.5e-5, "", "2.50e-05"),
    (None, "s", "–"), (float("nan"), "", "–"), (True, "", "yes"), ([1, 2.5], "", "1, 2.5"), ("a<b", "", "a&lt;b"),
])  # fmt: skip
def test_numbers_are_written_for_people(value, unit, said):
    assert page.show(value, unit) == said


@pytest.mark.parametrize(("metric", "label", "unit"), [
    ("rmse_z_um", "RMSE z", "µm"), ("speed_um_s", "Speed", "µm/s"),
    ("n_tracks", "Tracks", ""), ("link_f1", "Link F1", ""), ("time_s", "Time", "s"), ("tra", "TRA", ""),
    ("volume_um3", "Volume", "µm³"), ("seconds", "Time", "s"), ("s", "S", "s"),
])  # fmt: skip
def test_names_become_words_and_units(metric, label, unit):
    assert page.named(metric) == (label, unit)


def test_only_what_was_used_is_cited():
    assert any("SINDER" in line for line in cite.cite(["repair"]))
    assert not any("SINDER" in line for line in cite.cite(["track"]))
