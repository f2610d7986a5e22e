"""A table in a notebook whose rows can be chosen: by mouse, by key, or from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import anywidget
import pandas as pd
import traitlets


class RowTable(anywidget.AnyWidget):
    """Show rows of numbers; `row` is the chosen one (-1: none), and setting it marks it and scrolls to it.

    rows: [row number, text, text, ...] of each line; columns: the names above the texts.
    """

    _esm = Path(__file__).with_name("table.js")
    columns = traitlets.List().tag(sync=True)
    rows = traitlets.List().tag(sync=True)
    row = traitlets.Int(-1).tag(sync=True)

    @classmethod
    def of(cls, table: pd.DataFrame, names: Sequence[str], chosen: Callable[[int], None]) -> RowTable:
        """Make one of the columns `names` of a table; rows keep the numbers of its index; `chosen(row)` is called."""
        texts = table[list(names)].map(lambda v: "–" if v != v else f"{v:.2f}" if isinstance(v, float) else str(v))
        made = cls(columns=list(names), rows=[[int(i), *line] for i, *line in texts.itertuples()])
        made.observe(lambda change: chosen(change["new"]) if change["new"] >= 0 else None, "row")
        return made
