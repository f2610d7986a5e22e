"""The tables of a report: numbers by stage, times, parameters, where every file comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from cellfm_nb.view import page

STAGES = {"start": "Machine", "movie": "Movie", "simulate": "Movie", "curate": "Curation", "pretrain": "Pretraining",
          "features": "Features", "inspect": "Features", "repair": "Repair of defects", "stream": "Streaming",
          "segment": "Segmentation", "track": "Tracking", "score": "Scores against truth",
          "figures": "Figures"}  # fmt: skip
BOOKKEEPING = ("seconds", "peak_mib")  # shown in the table of times instead
MOST = 16  # numbers of a stage shown at once
CLAIM = re.compile(r"[A-D]\d\d ")  # figures of a claim: shown in the ledger instead
PEER = "trackpy"
LESS_IS_BETTER = ("error", "rmse", "switch", "false", "missed", "seconds", "mib")


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


def stages(summary: Mapping) -> str:
    """Show the metrics of each stage, rounded, with units."""
    order, blocks = list(STAGES), []
    table = compared(summary)
    beside = {*table["metric"], *(f"{PEER}_{m}" for m in table["metric"])}  # these have a table of their own
    for stage in sorted(summary, key=lambda s: (order.index(s) if s in order else len(order), s)):
        rows = []
        for metric, value in flat(summary[stage]):
            hidden = metric in BOOKKEEPING or CLAIM.match(metric) or (stage == "score" and metric in beside)
            if not hidden:
                label, unit = page.named(metric)
                rows.append([label, value, unit])
        if rows:
            lines = [f"<tr><td>{page.text(label)}<td class=n>{page.show(value, unit)}" for label, value, unit in rows]
            body = f'<div class="wide"><table>{"".join(lines[:MOST])}</table></div>'
            if len(lines) > MOST:
                body += (f"<details><summary>{len(lines) - MOST} more</summary>"
                         f'<div class="wide"><table>{"".join(lines[MOST:])}</table></div></details>')
            blocks.append(f"<section><h3>{page.text(STAGES.get(stage, page.named(stage)[0]))}</h3>{body}</section>")
    return f'<div class="columns">{"".join(blocks)}</div>' if blocks else ""


def times(record: Mapping) -> str:
    """Show how long each notebook took and its peak memory, and the total."""
    books = {name: b for name, b in sorted(record.get("notebooks", {}).items()) if "seconds" in b}
    rows = [[name, b["seconds"], b.get("peak_mib")] for name, b in books.items()]
    if rows:
        rows.append(["all", round(sum(r[1] for r in rows), 1), max((r[2] or 0) for r in rows)])
    return page.table(["notebook", "seconds", "peak (MiB)"], rows,
                      caption="As executed by cellfm run. Last: the sum of times, the largest memory.")


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
    files = {item["file"]: item["id"] for a in entries(record).values() for item in walk(a.get("params"))
             if "file" in item}
    return page.table(["input file", "sha256"], sorted(files.items()), caption="Files read from outside the run.")


def artifacts(record: Mapping) -> str:
    """List every artifact: which notebook made it when, from what, its content's digest; figures folded away."""
    rows = []
    for name, a in sorted(entries(record).items()):
        sources = sorted({item["artifact"] for item in walk(a.get("params")) if "artifact" in item})
        size = a.get("bytes", 0) / 2**20
        when = (a.get("when") or "")[:16].replace("T", "\xa0").replace("-", "\u2011")  # on one line
        rows.append([name, a.get("by") or "by hand", when, round(size, 2),
                     ", ".join(sources) or "–", (a.get("sha256") or a.get("key") or "")[:16]])
    head = ["artifact", "made by", "when (UTC)", "MiB", "from", "sha256 (first 16)"]
    drawn = [row for row in rows if row[0].startswith("figures/")]
    main = page.table(head, [row for row in rows if row not in drawn], caption="Files of this run.")
    folded = f"<details><summary>{len(drawn)} files of figures</summary>{page.table(head, drawn)}</details>"
    return main + (folded if drawn else "")


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


def entries(record: Mapping) -> Mapping[str, Any]:
    """Return the artifacts of a run's record."""
    return record.get("artifacts", {})
