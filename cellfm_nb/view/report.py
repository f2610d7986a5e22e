"""The report of a run: one page to mail, with what was run, on what, how well, from what, and what to doubt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cellfm_nb.errors import InputError
from cellfm_nb.view import page
from cellfm_nb.view.cite import cite

STAGES = {"start": "Machine", "movie": "Movie", "simulate": "Movie", "curate": "Curation", "pretrain": "Pretraining",
          "features": "Features", "inspect": "Features", "repair": "Repair of defects", "stream": "Streaming",
          "segment": "Segmentation", "track": "Tracking", "score": "Scores against truth",
          "figures": "Figures"}  # fmt: skip
BOOKKEEPING = ("seconds", "peak_mib")  # shown in the table of times instead
PEER = "trackpy"
LESS_IS_BETTER = ("error", "rmse", "switch", "false", "missed", "seconds", "mib")
CAPTIONS = {
    "overview": "One frame: the volume, its features as colours, the segmented objects, the tracks.",
    "learning_curves": "Losses while the encoder learned.",
    "scores": "Scores against exact truth, ours beside trackpy on the same movie.",
    "msd": "Mean squared displacement against the time lag.",
    "events": "Fissions and fusions over time.",
}
MAX_PICTURES_BYTES = 4_500_000


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
        page.section("Scores against truth", scores(summary)),
        page.section("Pictures", *pictures(folder)),
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


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


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
    last = max([b.get("started", "") for b in books.values()] + [a["when"] for a in _artifacts(record).values()] + [""])
    version = record.get("versions", {}).get("cellfm_nb", "?")
    facts = (f"Profile {record.get('profile')}, seed {record.get('seed')}, device {record.get('device')}, "
             f"cellfm_nb {version}. Last work {last[:16].replace('T', ' ')} UTC.")
    return f"<h1>{page.text(title)}</h1><p>{marks}</p>{page.paragraph(what)}{page.paragraph(facts, 'soft')}"


def cards(summary: Mapping) -> str:
    """Show the few numbers a reader wants first, those that are there."""
    wanted = (("score", "detection_f1"), ("score", "ap50"), ("score", "link_f1"), ("score", "hota"), ("score", "tra"),
              ("segment", "objects"), ("segment", "n_objects"), ("track", "tracks"), ("track", "n_tracks"))
    shown = []
    for stage, metric in wanted:
        value = summary.get(stage, {}).get(metric)
        if isinstance(value, int | float):
            label = page.named(metric)[0]
            shown.append(f'<div class="card"><b>{page.show(value)}</b><span>{page.text(label)}</span></div>')
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
    mixed = sorted({a["by"] or name for name, a in _artifacts(record).items()
                    if (a.get("profile"), a.get("seed")) != (record.get("profile"), record.get("seed"))})
    if mixed:
        said.append(f"Made with another profile or seed than the run's present one: {', '.join(mixed)}.")
    if record.get("profile") == "tiny":
        said.append("The tiny profile shows that everything works; its encoder has seen minutes of training, "
                    "so its scores say little about the method at its published size.")
    if not list((folder / "figures").glob("*.png")):
        said.append("There are no figures: notebook 10 has not been run.")
    return (f'<div class="warn">{page.text(sentence)}</div>' for sentence in said)


def compared(summary: Mapping) -> pd.DataFrame:
    """Return every score that the peer has too: metric (as in summary.json), unit, ours, trackpy, better."""
    metrics = dict(flat(summary.get("score", {})))
    rows = []
    for name, theirs in metrics.items():
        if PEER not in name:
            continue
        bare = name.replace(PEER, "").strip("_.").replace("__", "_").replace("..", ".")
        known = [k for k in (bare, f"ours_{bare}", f"{bare}_ours", f"ours.{bare}", f"{bare}.ours") if k in metrics]
        ours = metrics[known[0]] if known else None
        less = any(word in bare for word in LESS_IS_BETTER)
        tie = None in (ours, theirs) or ours == theirs
        better = "" if tie else "ours" if (ours > theirs) != less else PEER
        rows.append([bare, page.named(bare)[1], ours, theirs, better])
    return pd.DataFrame(rows, columns=["metric", "unit", "ours", PEER, "better"])


def scores(summary: Mapping) -> str:
    """Set every score that a peer has too beside the peer's, the better of the two in bold."""
    table = compared(summary)
    rows = [[page.named(r.metric)[0], r.unit, r.ours, r.trackpy] for r in table.itertuples()]
    bold = {(i, 2 if who == "ours" else 3) for i, who in enumerate(table["better"]) if who}
    note = "Both on the same simulated movie; the better in bold. Distances and thresholds are stated in notebook 09."
    body = page.table(["", "unit", "ours", PEER], rows, bold=bold)
    return body and body + page.paragraph(note, "soft")


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


def stages(summary: Mapping) -> str:
    """Show the metrics of each stage, rounded, with units."""
    order, blocks = list(STAGES), []
    table = compared(summary)
    beside = {*table["metric"], *(f"{PEER}_{m}" for m in table["metric"])}  # these have a table of their own
    for stage in sorted(summary, key=lambda s: (order.index(s) if s in order else len(order), s)):
        rows = []
        for metric, value in flat(summary[stage]):
            if metric not in BOOKKEEPING and not (stage == "score" and metric in beside):
                label, unit = page.named(metric)
                rows.append([label, value, unit])
        if rows:
            body = "".join(f"<tr><td>{page.text(label)}<td class=n>{page.show(value, unit)}"
                           for label, value, unit in rows)
            blocks.append(f"<section><h3>{page.text(STAGES.get(stage, page.named(stage)[0]))}</h3>"
                          f'<div class="wide"><table>{body}</table></div></section>')
    return f'<div class="columns">{"".join(blocks)}</div>' if blocks else ""


def times(record: Mapping) -> str:
    """Show how long each notebook took and its peak memory, and the total."""
    books = {name: b for name, b in sorted(record.get("notebooks", {}).items()) if "seconds" in b}
    rows = [[name, b["seconds"], b.get("peak_mib")] for name, b in books.items()]
    if rows:
        rows.append(["all", round(sum(r[1] for r in rows), 1), max((r[2] or 0) for r in rows)])
    return page.table(["notebook", "seconds", "peak memory (MiB)"], rows,
                      caption="As executed by `cellfm run`; the last line is the sum of times and the largest peak.")


def parameters(record: Mapping) -> str:
    """Show the parameters of each notebook, those shared by all left out after the first line."""
    shared = ("workspace", "profile", "device", "seed")
    rows = []
    for name, book in sorted(record.get("notebooks", {}).items()):
        given = {k: v for k, v in book.get("parameters", {}).items() if k not in shared}
        rows += [[name, ", ".join(f"{k} = {v!r}" for k, v in given.items()) or "the profile's"]]
    return page.table(["notebook", "set in its parameters cell (None: the profile's value)"], rows)


def inputs(record: Mapping) -> str:
    """List the files from outside the run that anything was made from, with their sha256."""
    files = {item["file"]: item["id"] for a in _artifacts(record).values() for item in walk(a.get("params"))
             if "file" in item}
    return page.table(["input file", "sha256"], sorted(files.items()), caption="Files read from outside the run.")


def artifacts(record: Mapping) -> str:
    """List every artifact: which notebook made it when, from what, its content's digest; figures folded away."""
    rows = []
    for name, a in sorted(_artifacts(record).items()):
        sources = sorted({item["artifact"] for item in walk(a.get("params")) if "artifact" in item})
        size = a.get("bytes", 0) / 2**20
        rows.append([name, a.get("by") or "by hand", (a.get("when") or "")[:16].replace("T", " "), round(size, 2),
                     ", ".join(sources) or "–", (a.get("sha256") or a.get("key") or "")[:16]])
    head = ["artifact", "made by", "when (UTC)", "MiB", "from", "sha256 (first 16)"]
    drawn = [row for row in rows if row[0].startswith("figures/")]
    main = page.table(head, [row for row in rows if row not in drawn], caption="Files of this run.")
    folded = f"<details><summary>{len(drawn)} files of figures</summary>{page.table(head, drawn)}</details>"
    return main + (folded if drawn else "")


def citations(summary: Mapping) -> str:
    return "<ul>" + "".join(f"<li>{page.text(line)}</li>" for line in cite(summary)) + "</ul>"


def flat(metrics: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of a possibly nested table of metrics."""
    for name, value in (metrics or {}).items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def walk(value: Any) -> Iterator[dict]:
    """Yield every dictionary inside a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def _artifacts(record: Mapping) -> Mapping[str, Any]:
    return record.get("artifacts", {})
