"""The ledger: one row for each claim of the seed documents, with what this run measured and whether the claim holds.

What is claimed, which cell tests it, where its figure is read and when it would hold stands in ledger.yaml. No figure
and no verdict is typed: a figure is read from the run's summary.json, from what a cell printed when the notebook was
executed, or from a bench's rows beside the run; the verdict follows from the figure and the bounds. Of a bench that
takes hours the package holds the rows of one day (`recorded`); where they stand in, the figure names the day.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cellfm_nb.errors import InputError

TABLE = Path(__file__).with_name("ledger.yaml")
RECORDED = Path(__file__).with_name("recorded")  # BENCH.DATE.json, as `cellfm bench BENCH --json` wrote it
HOLDS, WHEN, NOT, UNTESTABLE, NOT_RUN = VERDICTS = (
    "holds", "holds when", "does not hold here", "untestable here", "not run here")
SEEDS = {"A": "SpatialDINO essay", "B": "Bright-4B and scaling abstracts", "C": "UCell", "D": "CellSAM"}
COLUMNS = ["id", "claim", "source", "tested by", "our figure", "verdict", "why"]


@dataclass(frozen=True)
class Figure:
    """Where a number is read.

    name: what it is called. One of: summary, "stage.metric" of summary.json; printed, a pattern with one group, sought
    in what the claim's cell printed (take: its first or last hit); bench, [name of the bench, pattern of the case,
    "ours", a peer, or "case": the group in the pattern]. minus, over: another such source, taken off or divided by.
    times: a factor, for the unit. unit.
    """

    name: str
    summary: str = ""
    printed: str = ""
    bench: tuple[str, str, str] = ()
    take: str = "first"
    minus: Mapping[str, Any] | None = None
    over: Mapping[str, Any] | None = None
    times: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim: what is said, the cell that tests it, its figures, and when it would hold.

    holds: (low, high) of the first figure, None open; also: further bounds, by the name of a figure; when: the
    condition under which it holds, where it does; note: what else to know, words only. untestable: why, where no cell
    tests it; then there is neither figure nor bound.
    """

    id: str
    claim: str
    notebook: str = ""
    cell: str = ""
    figures: tuple[Figure, ...] = ()
    holds: tuple[float | None, float | None] | None = None
    also: Mapping[str, tuple[float | None, float | None]] | None = None
    when: str = ""
    note: str = ""
    untestable: str = ""

    @property
    def source(self) -> str:
        """The seed document it is from."""
        return SEEDS[self.id[0]]

    def verdict(self, values: Mapping[str, float | None]) -> str:
        """Judge: values are the figures by name, None where this run has none."""
        if self.untestable:
            return UNTESTABLE
        bounds = {self.figures[0].name: self.holds} | dict(self.also or {})
        if any(values.get(name) is None for name in bounds):
            return NOT_RUN
        if not all(within(values[name], *bound) for name, bound in bounds.items()):
            return NOT
        return f"{WHEN} {self.when}" if self.when else HOLDS


def within(value: float, low: float | None, high: float | None) -> bool:
    """Say whether low <= value <= high; None is open, a value that is no number is outside."""
    return math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)


def read_claims(path: str | Path = TABLE) -> list[Claim]:
    """Read the table of claims, in its order.

    Raises InputError where a row says too little or too much.
    """
    claims = []
    for name, row in yaml.safe_load(Path(path).read_text(encoding="utf-8")).items():
        try:
            figures = tuple(Figure(key, **source) for key, source in row.pop("figures", {}).items())
            notebook, _, cell = row.pop("tested", "").partition("/")
            claim = Claim(name, notebook=notebook, cell=cell, figures=figures, **row)
        except TypeError as error:
            raise InputError("A row of the ledger can't be read.", where=f"{Path(path).name}, {name}", got=str(error),
                             expected="the fields of Claim and Figure", do="Check its spelling.") from None
        if bool(claim.untestable) == bool(claim.figures and claim.holds and claim.cell):
            raise InputError("A row of the ledger is neither testable nor untestable.", got=name, where=Path(path).name,
                             expected="tested, figures and holds; or untestable", do="Say one of both.")
        claims.append(claim)
    return claims


def ledger(folder: str | Path) -> pd.DataFrame:
    """Make the ledger of a run: one row a claim, columns COLUMNS.

    folder: of the run; what is missing in it (a notebook not run, no truth) makes a verdict "not run here". Rows of a
    bench beside the run (bench/NAME.json) go before the recorded ones.
    """
    run = Run(Path(folder))
    rows = []
    for claim in read_claims():
        values = {figure.name: run.value(claim, figure) for figure in claim.figures}
        told = "; ".join(f"{f.name}: {shown(values[f.name], f.unit)}" for f in claim.figures
                         if values[f.name] is not None)
        told += "".join(f" (bench of {day}, not this run)" for day in run.recorded(claim))
        tested = f"{claim.notebook}, {claim.cell}" if claim.cell else "–"
        rows.append([claim.id, claim.claim, claim.source, tested, told or "–", claim.verdict(values),
                     claim.untestable or claim.note])
    return pd.DataFrame(rows, columns=COLUMNS)


def shown(value: float, unit: str) -> str:
    """Write a figure with its unit."""
    number = f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.3g}"
    return f"{number} {unit}".replace(" %", "%").replace(" x", "x").strip()


class Run:
    """What a run recorded, printed and benched, read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = self._json("summary.json")
        self._printed: dict[str, dict[str, str]] = {}

    def value(self, claim: Claim, figure: Figure) -> float | None:
        """Return a figure, or None where the run does not have it."""
        value = self._read(claim, vars(figure))
        for other, join in ((figure.minus, lambda a, b: a - b), (figure.over, lambda a, b: a / b if b else math.nan)):
            if other is not None and value is not None:
                second = self._read(claim, other)
                value = None if second is None else join(value, second)
        return None if value is None else value * figure.times

    def _read(self, claim: Claim, source: Mapping[str, Any]) -> float | None:
        if source.get("summary"):
            stage, _, metric = source["summary"].partition(".")
            found = self.summary.get(stage, {}).get(metric)
        elif source.get("printed"):
            hits = re.findall(source["printed"], self.printed(claim.notebook).get(claim.cell, ""), re.M)
            found = hits[-1 if source.get("take") == "last" else 0].replace(",", "") if hits else None
        else:
            bench, case, who = source["bench"]
            rows = ((re.search(case, row["case"]), row) for row in self.bench(bench)[1])
            hit, row = next((pair for pair in rows if pair[0]), (None, None))
            found = None if hit is None else {"ours": row["ours"], "case": (*hit.groups(), None)[0]}.get(
                who, row["peers"].get(who))
        return None if found is None else float(found)

    def bench(self, name: str) -> tuple[str, list[dict]]:
        """Return the rows of a bench and the day they were recorded on, "" where this run has its own."""
        if own := self._json(f"bench/{name}.json"):
            return "", own
        path = max(RECORDED.glob(f"{name}.*.json"), default=None)
        return (path.name.split(".")[1], json.loads(path.read_text(encoding="utf-8"))) if path else ("", [])

    def recorded(self, claim: Claim) -> set[str]:
        """Return the days of recorded benches that a claim's figures are read from."""
        return {day for figure in claim.figures if figure.bench and (day := self.bench(figure.bench[0])[0])}

    def printed(self, notebook: str) -> dict[str, str]:
        """Return what each cell of an executed notebook printed or showed as text, by cell id."""
        if notebook not in self._printed:
            path = next(iter(sorted((self.folder / "executed").glob(f"{notebook}_*.ipynb"))), None)
            cells = self._json(path.relative_to(self.folder).as_posix())["cells"] if path else []
            self._printed[notebook] = {cell["id"]: "\n".join(map(text_of, cell.get("outputs", []))) for cell in cells}
        return self._printed[notebook]

    def _json(self, name: str) -> Any:
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def text_of(output: Mapping[str, Any]) -> str:
    """Return the text of one output of a cell."""
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return text if isinstance(text, str) else "".join(text)
