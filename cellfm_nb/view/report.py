"""The report of a run: one page to mail, with what was run, on what, how well, from what, and what to doubt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cellfm_nb.claims import HOLDS, NOT, NOT_RUN, UNTESTABLE, WHEN, ledger
from cellfm_nb.curate.decisions import VERDICTS
from cellfm_nb.errors import InputError
from cellfm_nb.view import page
from cellfm_nb.view.cite import cite
from cellfm_nb.view.report_tables import (
    PEER,
    STAGES,
    artifacts,
    compared,
    entries,
    flat,
    inputs,
    parameters,
    stages,
    times,
)

CAPTIONS = {
    "overview": "One frame: the volume, its features as colours, the segmented objects, the tracks. In B a square is a "
                "token: black, like most; bright, unlike most; the hue says in which way.",
    "learning_curves": "Losses while the encoder learned, and the health of its features.",
    "scores": "Scores against exact truth, ours beside trackpy on the same movie.",
    "msd": "Mean squared displacement against the time lag.",
    "events": "Fissions and fusions over time.",
}
MAX_PICTURES_BYTES = 4_500_000
MAX_FRAMES = 20  # listed of those that were not accepted
MARKS = {HOLDS: "yes", WHEN: "yes", NOT: "no", UNTESTABLE: "open", NOT_RUN: "open"}
COUNTED = {HOLDS: "hold", WHEN: "hold under a condition", NOT: "do not hold here", UNTESTABLE: "are untestable here",
           NOT_RUN: "wait for a notebook or a bench"}


def build(folder: str | Path) -> Path:
    """Write report.html of a run from its workspace.json, summary.json and figures/*.png; return its path.

    Missing stages are named, not an error. The page holds its pictures, loads nothing and names no absolute path.
    Raises InputError when the folder holds no run.
    """
    folder = Path(folder)
    record = load(folder / "workspace.json")
    if not record:
        raise InputError("There is no run in this folder.", where=folder.name, got="no workspace.json",
                         expected="the folder of a run", do="Run a notebook, or `cellfm run`, first.")
    summary = load(folder / "summary.json")
    title = f"Report of the run {folder.name}"
    body = "\n".join([
        heading(title, record, folder),
        cards(summary),
        page.section("What to doubt", *warnings(record, summary, folder)),
        page.section("Quality of the movie, and who looked", *quality(folder)),
        page.section("Scores against truth", scores(summary)),
        page.section("Pictures", *pictures(folder)),
        page.section("Claims, tested on this run", claims(folder)),
        page.section("Numbers, stage by stage", stages(summary)),
        page.section("Time and memory", times(record)),
        page.section("Parameters", parameters(record)),
        page.section("Where everything comes from", inputs(record), artifacts(record)),
        page.section("Versions", page.table(["package", "version"], sorted(record.get("versions", {}).items()))),
        page.section("How to cite", citations(summary)),
    ])  # fmt: skip
    target = folder / "report.html"
    temporary = folder / f".partial-{os.getpid()}-report.html"
    temporary.write_text(page.document(title, body), encoding="utf-8")
    os.replace(temporary, target)
    return target


def heading(title: str, record: Mapping, folder: Path) -> str:
    """Say what was run, and first of all whether the movie is simulated or real."""
    name = record.get("movie", {}).get("name", "default")
    if (folder / "truth").exists():
        made = load(folder / "truth" / "scene.json").get("made_with", {})
        twin = f" Its PSF was {made['psf']}; its camera {made['camera']['source']}." if "camera" in made else ""
        badge, what = "simulated movie", (
            f"The movie scored here is simulated: a digital twin with exact truth.{twin} "
            "No score on this page is a score on real data.")  # fmt: skip
    elif name != "default":
        badge, what = "real movie", f"The movie is the user's, {name}. There is no truth for it, so nothing is scored."
    else:
        badge, what = "no movie yet", "No movie has been made or read in this run."
    badges = [badge] + (["real stack"] if (folder / "stack.ome.zarr").exists() else [])
    marks = "".join(f'<span class="badge{" real" * b.startswith("real")}">{page.text(b)}</span>' for b in badges)
    if "real stack" in badges:
        what += " The volume called the stack is a real lattice light-sheet recording, deskewed here from raw."
    books = record.get("notebooks", {})
    last = max([b.get("started", "") for b in books.values()] + [a["when"] for a in entries(record).values()] + [""])
    version = record.get("versions", {}).get("cellfm_nb", "?")
    facts = (f"Profile {record.get('profile')}, seed {record.get('seed')}, device {record.get('device')}, "
             f"cellfm_nb {version}. Last work {last[:16].replace('T', ' ')} UTC.")
    return f"<h1>{page.text(title)}</h1><p>{marks}</p>{page.paragraph(what)}{page.paragraph(facts, 'soft')}"


def cards(summary: Mapping) -> str:
    """Show the few numbers a reader wants first, those that are there."""
    wanted = (("score", "f1"), ("score", "detection_f1"),
              ("score", "ap50"), ("score", "link_f1"), ("score", "hota"), ("score", "tra"),
              ("segment", "objects"), ("segment", "n_objects"), ("track", "tracks"), ("track", "n_tracks"))
    shown = []
    for stage, metric in wanted:
        value = summary.get(stage, {}).get(metric)
        if isinstance(value, int | float):
            label = page.named(metric)[0]
            shown.append(f'<div class="card"><b>{page.show(round(value, 3))}</b><span>{page.text(label)}</span></div>')
    return f'<div class="cards">{"".join(shown)}</div>' if shown else ""


def warnings(record: Mapping, summary: Mapping, folder: Path) -> Iterator[str]:
    """Yield one sentence for each thing a careful reader should know before believing the rest."""
    said = []
    for name, book in sorted(record.get("notebooks", {}).items()):
        if book.get("status") == "running" and not name.startswith(("10_", "11_")):
            said.append(f"Notebook {name} did not finish.")
    missing = [words for stage, words in
               (("curate", "curation"), ("pretrain", "pretraining"), ("stream", "streaming"),
                ("segment", "segmentation"), ("track", "tracking")) if stage not in summary]  # fmt: skip
    if missing:
        said.append(f"Not in this run: {', '.join(missing)}.")
    if "score" not in summary:
        said.append("Nothing was scored: there is no truth, or notebook 09 has not been run.")
    for stage, metrics in summary.items():
        for metric, value in flat(metrics):
            if value is None:
                said.append(f"{STAGES.get(stage, stage)}: {page.named(metric)[0]} has no finite value.")
            elif isinstance(value, str) and "warning" in metric:
                said.append(f"{STAGES.get(stage, stage)}: {value}")
    mixed = sorted({a["by"] or name for name, a in entries(record).items()
                    if (a.get("profile"), a.get("seed")) != (record.get("profile"), record.get("seed"))})
    if mixed:
        said.append(f"Made with another profile or seed than the run's present one: {', '.join(mixed)}.")
    if record.get("profile") == "tiny":
        said.append("The tiny profile shows that everything works; its encoder has seen minutes of training, "
                    "so its scores say little about the method at its published size.")
    if not list((folder / "figures").glob("*.png")):
        said.append("There are no figures: notebook 10 has not been run.")
    return (f'<div class="warn">{page.text(sentence)}</div>' for sentence in said)


def scores(summary: Mapping) -> str:
    """Set every score that a peer has too beside the peer's, the better of the two in bold."""
    table = compared(summary)
    rows = [[page.named(r.metric)[0] + f" ({r.unit})" * bool(r.unit),
             *(v if v is None else round(v, 3) for v in (r.ours, r.trackpy))] for r in table.itertuples()]
    bold = {(i, 1 if who == "ours" else 2) for i, who in enumerate(table["better"]) if who}
    note = "Both on the same simulated movie; the better in bold. Distances and thresholds are stated in notebook 09."
    body = page.table(["", "ours", PEER], rows, bold=bold)
    return body and body + page.paragraph(note, "soft")


def quality(folder: Path) -> Iterator[str]:
    """Yield how many frames were accepted and by whom, which were not and why, and how many events were looked at."""
    frames, events = (read_table(folder / name) for name in ("curate/quality.csv", "track/events.csv"))
    if {"frame", "verdict", "reason", "by", "snr"} <= set(frames):
        count = frames["verdict"].value_counts()
        told = ", ".join(f"{count.get(v, 0)} {v}" for v in VERDICTS)
        by = ", ".join(sorted({who for words in frames["by"] for who in str(words).split(", ")}))
        snr = pd.to_numeric(frames["snr"], errors="coerce").median()
        yield page.paragraph(f"{len(frames)} frames: {told}; decided by {by}. Median signal-to-noise ratio {snr:.1f}.")
        left = frames[frames["verdict"] != "accept"]
        rows = left[["frame", "verdict", "reason", "by"]].head(MAX_FRAMES).values.tolist()
        more = f"The first {MAX_FRAMES} of {len(left)}." if len(left) > MAX_FRAMES else ""
        yield page.table(["frame", "verdict", "reason", "by"], rows, caption=more)
    if "status" in events:
        status = events["status"].value_counts()
        told = ", ".join(f"{n} {word}" for word, n in status.items())
        yield page.paragraph(f"{status.sum()} splits and merges were found: {told}. "
                             "A candidate is one that nobody has looked at." if len(status) else "No split, no merge.")


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file, texts as they are; an empty table where there is none."""
    return pd.read_csv(path, keep_default_na=False) if path.exists() else pd.DataFrame()


def pictures(folder: Path) -> Iterator[str]:
    """Yield the run's figures, known ones first, as long as the page stays light enough to mail."""
    order = list(CAPTIONS)
    found = sorted((folder / "figures").glob("*.png"),
                   key=lambda p: (order.index(p.stem) if p.stem in order else len(order), p.stem))
    total = 0
    for path in found:
        block = page.picture(path, CAPTIONS.get(path.stem, page.named(path.stem)[0] + "."))
        total += len(block)
        if total > MAX_PICTURES_BYTES:
            yield page.paragraph(f"Further pictures are left out to keep this page light: see figures/{path.name}.")
            return
        yield block


def claims(folder: Path) -> str:
    """Show the ledger: how many claims hold, then one row each, with the figure and the reason."""
    rows = ledger(folder).replace("–", "")
    short = rows["verdict"].where(~rows["verdict"].str.startswith(WHEN), WHEN)
    count = short.value_counts()
    told = ", ".join(f"{count[word]} {COUNTED[word]}" for word in COUNTED if word in count)
    body = [[r.id, page.marked(r.verdict, MARKS[word]), r.claim, figure, r.tested, r.why] for r, word, figure in zip(
        rows.rename(columns={"tested by": "tested"}).itertuples(), short, rows["our figure"], strict=True)]
    note = ("What the articles behind this collection claim, in our words. Figures are read from this run; a "
            "verdict follows from its figure, and a small run is a small witness.")
    return page.paragraph(f"{len(rows)} claims: {told}.") + page.paragraph(note, "soft") + page.table(
        ["", "verdict", "claim", "our figure", "tested by", "to know"], body, css="stack ledger")


def citations(summary: Mapping) -> str:
    return "<ul>" + "".join(f"<li>{page.text(line)}</li>" for line in cite(summary)) + "</ul>"


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
