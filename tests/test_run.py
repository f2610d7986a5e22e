"""The main job: every notebook in the tiny profile, and what it leaves behind."""

import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import pandas as pd
import pytest
from conftest import ROOT

from cellfm_nb import claims
from cellfm_nb.notebooks import listing

ARTIFACTS = [
    "workspace.json", "movie.ome.zarr", "truth/positions.csv", "truth/tracks.csv", "truth/events.csv",
    "truth/labels.zarr", "curate/quality.csv", "curate/crops-000000.tar", "pretrain/encoder.safetensors",
    "pretrain/config.json",
    "pretrain/log.csv", "repair/encoder.safetensors", "repair/config.json", "repair/defects.csv",
    "stream/features.zarr", "stream/pca.npz", "stream/activation.zarr", "movie.ome.zarr/labels",
    "segment/objects.parquet", "track/tracks.csv", "track/events.csv", "track/tracks.geff", "track/ctc",
    "track/trackmate.xml", "figures", "executed", "summary.json", "report.html"]  # fmt: skip


def cellfm(home, *options):
    env = {**os.environ, "CELLFM_HOME": str(home), "OMP_NUM_THREADS": "2"}
    return subprocess.run([sys.executable, "-m", "cellfm_nb.cli", *options], cwd=home, env=env, capture_output=True,
                          text=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    done = cellfm(home, "run")
    assert done.returncode == 0, done.stderr[-4000:]
    return home


@pytest.fixture(scope="module")
def demo(home):
    return home / "runs" / "demo"


def test_everything_is_there(demo):
    assert not [name for name in ARTIFACTS if not (demo / name).exists()]
    assert sorted(p.stem for p in (demo / "executed").glob("*.html")) == [p.stem for p in listing().values()]
    assert not list(demo.rglob(".partial*")) and not list(demo.rglob(".old*"))


def test_each_figure_comes_with_its_data(demo):
    stems = {p.stem for p in (demo / "figures").glob("*.svg")}
    assert stems
    for stem in stems:
        assert all((demo / "figures" / f"{stem}{s}").stat().st_size > 0 for s in (".svg", ".png", ".pdf", ".csv"))


def test_time_and_memory(demo):
    summary = json.loads((demo / "summary.json").read_text())
    assert len(summary) >= 13
    assert all(row["seconds"] > 0 and row["peak_mib"] < 6 * 1024 for row in summary.values())


def test_scores_stand_beside_the_peer(demo):
    """Floors far under what the defaults reach: they catch a broken stage, not noise."""
    score = json.loads((demo / "summary.json").read_text())["score"]
    assert score["f1"] > 0.8 and score["link_f1"] > 0.7 and 0 < score["hota"] <= 1
    assert any("trackpy" in name for name in score)


def test_tables_have_the_promised_columns(demo):
    tracks = pd.read_csv(demo / "track/tracks.csv")
    assert list(tracks.columns) == ["track_id", "frame", "t_s", "z", "y", "x", "z_um", "y_um", "x_um", "label", "mass",
                                    "volume_um3", "score", "parent_id", "gap"]
    assert tracks.track_id.nunique() > 20 and tracks.drop(columns="score").notna().all().all()


def test_report_is_one_file_without_paths(demo):
    text = (demo / "report.html").read_text()
    sources = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: sources.extend(v for k, v in attrs if k in ("src", "srcset") and v)
    parser.feed(text)
    assert sources and all(s.startswith("data:") for s in sources)
    assert len(text) < 8e6 and "simulated" in text


def test_each_claim_has_its_figure(demo):
    """What a run can tell it tells: only the rows that need a bench wait."""
    table, rows = claims.ledger(demo).set_index("id"), {c.id: c for c in claims.read_claims()}
    waiting = [k for k in table.index[table["verdict"] == claims.NOT_RUN] if not rows[k].figures[0].bench]
    assert not waiting, table.loc[waiting, ["tested by", "our figure"]].to_string()
    assert table.loc["A25", "our figure"].startswith("at the published size: 0.086%")
    report = (demo / "report.html").read_text()
    assert "Claims, tested on this run" in report and report.count('data-head="claim"') == len(table) == 58


@pytest.mark.parametrize("number", [f"{n:02d}" for n in range(14)])
def test_executed_pages_are_whole_and_leak_no_path(demo, home, number):
    page = next((demo / "executed").glob(f"{number}_*.html")).read_text()
    assert str(home) not in page and str(ROOT) not in page and os.path.expanduser("~") + "/" not in page
    book = json.loads(next((demo / "executed").glob(f"{number}_*.ipynb")).read_text())
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    assert all(c["execution_count"] for c in code)
    told = [o for c in code for o in c["outputs"]]
    warnings = "".join("".join(o.get("text", "")) for o in told if o.get("name") == "stderr")
    assert not re.search(r"Warning", warnings), warnings[:600]


# cells to touch, by notebook
LOOKS = {"00": ["check-ball"], "01": ["deskew-stack", "look-at-first-frame"], "02": ["review-frames", "try-crop-seeds"],
         "05": ["look-at-norms", "paint-before-and-after", "scatter-components"],
         "07": ["try-a-threshold", "segment-movie"], "08": ["link-views", "explore-events"]}


@pytest.mark.parametrize("number", LOOKS)
def test_every_view_to_touch_leaves_a_still_picture_in_the_page(demo, number):
    """Without a display: no widget, no frame, but the picture, in the executed notebook and in its page."""
    path = demo / "executed" / listing()[number].name
    page = path.with_suffix(".html").read_text()
    cells = {cell["id"]: cell for cell in json.loads(path.read_text())["cells"]}
    for name in LOOKS[number]:
        kinds = [kind for output in cells[name]["outputs"] for kind in output.get("data", {})]
        if name != "deskew-stack" or "image/png" in kinds:  # without the real stack, one sentence
            assert "image/png" in kinds and set(kinds) <= {"image/png", "text/plain"}, (name, kinds)
            png = next(o["data"]["image/png"] for o in cells[name]["outputs"] if "image/png" in o.get("data", {}))
            assert "".join(png).replace("\n", "")[:400] in page.replace("\n", "")
    assert "<iframe" not in page.split("<body", 1)[1]


def test_running_again_skips_everything_within_30_s(home):
    start = time.monotonic()
    done = cellfm(home, "run")
    assert done.returncode == 0 and done.stderr.count("unchanged, skipped") == 14, done.stderr
    assert time.monotonic() - start < 30
