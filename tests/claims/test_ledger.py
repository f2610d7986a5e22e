"""The ledger: every claim once, every named cell there, no figure typed, verdicts that follow from figures."""

import json
import re
from datetime import date

import nbformat
import pandas as pd
import pytest
import yaml

from cellfm_nb import claims
from cellfm_nb.bench import BENCHES
from cellfm_nb.claims.ledger import RECORDED, TABLE, Claim, Figure, Run, read_claims, shown, within
from cellfm_nb.errors import InputError
from cellfm_nb.notebooks import listing

IDS = [f"A{n:02d}" for n in range(1, 46)] + [f"{s}{n:02d}" for s, last in (("B", 5), ("C", 3), ("D", 5))
                                             for n in range(1, last + 1)]
CLAIMS = read_claims()
TESTED = [c for c in CLAIMS if not c.untestable]


def test_every_claim_stands_once_in_order():
    assert [c.id for c in CLAIMS] == IDS
    lines = [line.rstrip(":\n") for line in TABLE.open() if line[0] in "ABCD"]
    assert lines == IDS  # a yaml key given twice would silently win


@pytest.mark.parametrize("claim", TESTED, ids=lambda c: c.id)
def test_the_cell_that_tests_it_is_there(claim):
    cells = {c.id: c for c in nbformat.read(listing()[claim.notebook], as_version=4).cells}
    cell = cells[claim.cell]
    assert cell.cell_type == "code" and ("check" in cell.metadata.get("tags", []) or claim.cell == "run-ablation")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_a_row_says_what_decides_it(claim):
    assert claim.claim.endswith(".") and claim.source
    names = [f.name for f in claim.figures]
    assert set(claim.also or {}) <= set(names)
    for figure in claim.figures:
        assert sum(map(bool, (figure.summary, figure.printed, figure.bench))) == 1, figure
    if claim.untestable:
        assert not claim.figures and not claim.when and claim.verdict({}) == claims.UNTESTABLE


def test_verdicts_follow_from_figures():
    claim = Claim("A05", "k-means.", "02", "check", (Figure("ratio", summary="curate.ratio"), Figure("other", "x.y")),
                  holds=(3, 5), also={"other": (None, 0.1)}, when="boxes are small")
    assert claim.verdict({"ratio": 4.0, "other": 0.0}) == "holds when boxes are small"
    for ratio, other in ((2.9, 0.0), (5.1, 0.0), (4.0, 0.2), (float("nan"), 0.0)):
        assert claim.verdict({"ratio": ratio, "other": other}) == claims.NOT
    assert claim.verdict({"ratio": None, "other": 0.0}) == claim.verdict({"ratio": 4.0}) == claims.NOT_RUN
    assert within(3, 3, 5) and within(5, 3, 5) and within(-9, None, 5) and not within(float("inf"), 0, None)


@pytest.fixture
def run(tmp_path):
    """A folder with one figure of each kind."""
    (tmp_path / "summary.json").write_text(json.dumps({"track": {"a": 0.9, "b": 0.4, "zero": 0}}))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", id="check-x", outputs=[
        nbformat.v4.new_output("stream", text="A27: reach 1: 0.25\nA27: reach 2: 0.75\n1,800 tokens\n"),
        nbformat.v4.new_output("execute_result", {"text/plain": "memory 3  0.5"})])])
    (tmp_path / "executed").mkdir()
    nbformat.write(book, tmp_path / "executed" / "08_track.ipynb")
    (tmp_path / "bench").mkdir()
    rows = [{"case": "cold teacher | A21 3 of 3 stopped: holds", "ours": float("nan"), "peers": {"rank": 0.1}},
            {"case": "ours | reference", "ours": 0.8, "peers": {"rank": 0.4}}]
    (tmp_path / "bench" / "ssl.json").write_text(json.dumps(rows))
    return Run(tmp_path)


REACH = {"printed": r"^A27: reach \d+: ([\d.]+)"}


@pytest.mark.parametrize(("source", "value"), [
    ({"summary": "track.a"}, 0.9), ({"summary": "track.a", "times": 100}, 90), ({"summary": "track.none"}, None),
    ({"summary": "track.a", "minus": {"summary": "track.b"}}, 0.5), ({"summary": "no.stage"}, None),
    ({"summary": "track.a", "over": {"summary": "track.b"}}, 2.25),
    ({"summary": "track.a", "minus": {"summary": "track.none"}}, None),
    (REACH, 0.25), (REACH | {"take": "last", "minus": REACH}, 0.5), ({"printed": r"([\d,]+) tokens"}, 1800),
    ({"printed": r"^memory 3\s+([\d.]+)"}, 0.5), ({"printed": "no such ([0-9])"}, None),
    ({"bench": ["ssl", "^ours ", "ours"]}, 0.8), ({"bench": ["ssl", "^ours ", "rank"]}, 0.4),
    ({"bench": ["ssl", r"^cold .*?(\d+) of", "case"]}, 3), ({"bench": ["ssl", "^warm", "ours"]}, None),
    ({"bench": ["none", "^ours ", "ours"]}, None),
])  # fmt: skip
def test_figures_are_read_where_the_row_says(run, source, value):
    found = run.value(Claim("A41", "x.", "08", "check-x"), Figure("f", **source))
    assert found == pytest.approx(value) if value is not None else found is None


def test_a_quotient_by_nothing_is_no_number_and_never_holds(run):
    figure = Figure("f", summary="track.a", over={"summary": "track.zero"})
    value = run.value(Claim("A41", "x.", "08", "check-x"), figure)
    assert Claim("A41", "x.", "08", "check-x", (figure,), holds=(None, None)).verdict({"f": value}) == claims.NOT


def test_a_recorded_bench_stands_in_until_the_run_has_its_own(tmp_path):
    def row() -> pd.Series:
        return claims.ledger(tmp_path).set_index("id").loc["A15"]

    assert re.search(r"\(bench of \d{4}-\d\d-\d\d, not this run\)$", row()["our figure"])
    cases = [("published losses | reference", 0.9), ("DINO alone |", 0.5), ("iBOT alone |", 0.6)]
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "ssl_ablation.json").write_text(
        json.dumps([{"case": case, "ours": ap, "peers": {}} for case, ap in cases]))
    assert row()["our figure"] == "AP, DINO alone against both: -0.4; iBOT alone: -0.3"
    assert row()["verdict"] == claims.HOLDS


def test_recorded_benches_are_there_under_their_names_and_days():
    for path in RECORDED.iterdir():
        bench, day, end = path.name.split(".")
        assert bench in BENCHES and end == "json" and date.fromisoformat(day)
        assert all({"case", "ours", "peers"} <= set(row) for row in json.loads(path.read_text()))
    asked = {figure.bench[0] for claim in CLAIMS for figure in claim.figures if figure.bench}
    assert asked == {path.name.split(".")[0] for path in RECORDED.iterdir()}  # so no row waits for hours of work


@pytest.fixture
def nothing_recorded(tmp_path, monkeypatch):
    monkeypatch.setitem(claims.ledger.__globals__, "RECORDED", tmp_path / "recorded")


def test_an_empty_folder_has_a_ledger_without_a_figure(tmp_path, nothing_recorded):
    table = claims.ledger(tmp_path)
    assert list(table.columns) == claims.COLUMNS and set(table["our figure"]) == {"–"}
    assert set(table["verdict"]) == {claims.NOT_RUN, claims.UNTESTABLE}
    assert (table.loc[table["verdict"] == claims.UNTESTABLE, "why"].str.len() > 5).all()


@pytest.mark.parametrize(("row", "said"), [
    ({"claim": "x.", "tested": "01/a", "holds": [0, 1], "figures": {"f": {"sumary": "a.b"}}}, "sumary"),
    ({"claim": "x."}, "neither"), ({"claim": "x.", "tested": "01/a", "untestable": "no", "holds": [0, 1],
                                    "figures": {"f": {"summary": "a.b"}}}, "neither"),
])  # fmt: skip
def test_a_row_that_cant_be_read_is_refused(tmp_path, row, said):
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"A01": row}))
    with pytest.raises(InputError, match=said):
        read_claims(tmp_path / "t.yaml")


@pytest.mark.parametrize(("value", "unit", "text"), [
    (1500.0, "h", "1,500 h"), (0.0411, "", "0.0411"), (99.5, "%", "99.5%"), (2.0, "x", "2x"), (5, "of 5", "5 of 5")])
def test_figures_are_written_with_their_unit(value, unit, text):
    assert shown(value, unit) == text
