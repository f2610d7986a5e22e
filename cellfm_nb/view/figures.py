"""Figures for a paper: one call writes the vector file, the picture, and the numbers behind them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from cellfm_nb.view.style import STYLE
from cellfm_nb.workspace import Workspace

SUFFIXES = (".svg", ".png", ".pdf", ".csv")
PRINT_DPI = 200  # of the .png, and of images inside the vector files
# No dates in the files: the same figure gives the same bytes.
METADATA = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def save_figure(figure: Figure, table: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Write stem.svg, stem.png, stem.pdf and stem.csv (the table drawn); return the four paths."""
    paths = [Path(f"{stem}{suffix}") for suffix in SUFFIXES]
    write_figure(*paths, figure, table)
    return paths


def write_figure(svg: Path, png: Path, pdf: Path, csv: Path, figure: Figure, table: pd.DataFrame) -> None:
    """Write a figure's four files (the writer handed to Workspace.make; the names need no suffix)."""
    with rc_context(STYLE):
        for path, suffix in ((svg, ".svg"), (png, ".png"), (pdf, ".pdf")):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format=suffix[1:], dpi=PRINT_DPI, metadata=METADATA[suffix])
    table.to_csv(csv, index=not isinstance(table.index, pd.RangeIndex), lineterminator="\n")


def keep(ws: Workspace, name: str, figure: Figure, table: pd.DataFrame) -> Figure:
    """Save a figure as figures/<name>.svg, .png, .pdf and .csv of a run, if it changed; return it.

    A figure that only says that there is nothing to draw is returned and not saved.
    """
    if any(ax.axison for ax in figure.axes):
        ws.make([f"figures/{name}{suffix}" for suffix in SUFFIXES], write_figure, figure, table)
    return figure
