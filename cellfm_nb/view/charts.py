"""Charts of numbers: histograms, learning curves, bars, scatter plots, event timelines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cellfm_nb.view.style import BLUE, GREY, PALETTE, STYLE, VERMILION, YELLOW, Picture, contrast, picture, say

MAX_POINTS = 20_000  # more points than this say nothing more and make vector files heavy


@rc_context(STYLE)
def histogram(
    values: dict[str, np.ndarray], xlabel: str, log: bool = True, lines: dict[str, float] | None = None
) -> Picture:
    """Compare distributions on common bins.

    values: name -> numbers of any shape. log: counts on a logarithmic axis.
    lines: name -> position of a vertical line, in the unit of `xlabel`.
    """
    fig = picture(height_in=3.2)
    ax = fig.add_subplot(xlabel=xlabel, ylabel="count")
    finite = {name: finite_of(v) for name, v in values.items()}
    everything = np.concatenate([v for v in finite.values()] or [np.empty(0)])
    if everything.size == 0:
        say(ax, "No finite value to count.")
        return fig
    bins = common_bins(everything)
    for (name, v), colour in zip(finite.items(), cycle(len(finite)), strict=True):
        ax.hist(v, bins=bins, histtype="stepfilled", color=colour, alpha=0.25)
        ax.hist(v, bins=bins, histtype="step", color=colour, lw=1.5, label=f"{name} (n = {v.size:,})")
    for (name, at), style in zip((lines or {}).items(), ("--", ":", "-.", (0, (5, 1))) * 9, strict=False):
        ax.axvline(at, color="black", lw=1.2, ls=style, label=f"{name} = {at:.4g}")
    if log:
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.7)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    beside(ax)
    return fig


@rc_context(STYLE)
def curves(
    table: pd.DataFrame,
    x: str,
    ys: Sequence[str],
    labels: Sequence[str] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    log: bool | str = False,
) -> Picture:
    """Draw columns of a table against another column.

    table: one row per point. x, ys: column names.
    log: True for a logarithmic y axis; "x", "y" or "xy" names the axes.
    """
    fig = picture(height_in=3.2)
    ax = fig.add_subplot(xlabel=xlabel or x, ylabel=ylabel or (ys[0] if len(ys) == 1 else ""))
    present = [y for y in ys if y in table.columns]
    if len(table) == 0 or not present:
        say(ax, "No row to draw.")
        return fig
    names = dict(zip(ys, labels or ys, strict=False))
    if pd.api.types.is_integer_dtype(table[x]):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for y, colour in zip(present, cycle(len(present)), strict=True):
        rows = table[[x, y]].apply(pd.to_numeric, errors="coerce").dropna()
        if len(rows):
            marker = "o" if len(rows) < 30 else None
            ax.plot(rows[x], rows[y], color=colour, lw=1.6, marker=marker, ms=4, label=names.get(y, y))
    if not ax.lines:
        say(ax, "No finite number to draw.")
        return fig
    logarithmic(ax, "y" if log is True else log or "")
    if len(present) > 1:
        beside(ax)
    return fig


@rc_context(STYLE)
def bars(table: pd.DataFrame, ylabel: str = "") -> Picture:
    """Draw grouped bars, one group per row and one colour per column, each bar with its number above it."""
    numbers = table.apply(pd.to_numeric, errors="coerce")
    fig = picture(height_in=3.2)
    ax = fig.add_subplot()
    if numbers.size == 0:
        say(ax, "No bar to draw.")
        return fig
    n, width = len(numbers.columns), 0.8 / len(numbers.columns)
    for k, (name, colour) in enumerate(zip(numbers.columns, cycle(n), strict=True)):
        at = np.arange(len(numbers)) + (k - (n - 1) / 2) * width
        drawn = ax.bar(at, numbers[name].to_numpy(), width * 0.92, color=colour, label=str(name))
        if numbers.size <= 24:
            texts = ["" if np.isnan(v) else f"{v:.3f}" if abs(v) < 1 else f"{v:.3g}" for v in numbers[name]]
            ax.bar_label(drawn, texts, fontsize=min(8, 120 / numbers.size), color=GREY, padding=1)  # side by side
    ax.set_ylabel(ylabel)
    ax.margins(y=0.08)  # room for the numbers
    crowded = max(len(str(i)) for i in numbers.index) * len(numbers) > 70
    ax.set_xticks(range(len(numbers)), [str(i) for i in numbers.index], rotation=30 if crowded else 0)
    if n > 1:
        beside(ax)
    return fig


@rc_context(STYLE)
def scatter(x, y, c=None, xlabel: str = "", ylabel: str = "") -> Picture:
    """Draw points, coloured by a number each if `c` is given (viridis, from percentile 1 to 99).

    Above 20 000 points an even subset is drawn and the picture says so.
    """
    x, y = np.ravel(np.asarray(x, dtype=float)), np.ravel(np.asarray(y, dtype=float))
    colour = None if c is None else np.ravel(np.asarray(c, dtype=float))
    keep = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    fig = picture(6.0, 4.2)
    ax = fig.add_subplot(xlabel=xlabel, ylabel=ylabel)
    if keep.size == 0:
        say(ax, "No point to draw.")
        return fig
    if keep.size > MAX_POINTS:
        ax.set_title(f"{MAX_POINTS:,} of {keep.size:,} points shown", fontsize=9)
        keep = keep[np.linspace(0, keep.size - 1, MAX_POINTS).astype(int)]
    size = float(np.clip(4000 / keep.size, 3, 36))
    style = dict(s=size, linewidths=0, alpha=0.8, rasterized=keep.size > 2000)
    if colour is None:
        ax.scatter(x[keep], y[keep], color=BLUE, **style)
    else:
        low, high = contrast(colour[keep], (1, 99))
        drawn = ax.scatter(x[keep], y[keep], c=colour[keep], cmap="viridis", vmin=low, vmax=high, **style)
        fig.colorbar(drawn, ax=ax, shrink=0.8)
    return fig


@rc_context(STYLE)
def timeline(events: pd.DataFrame, truth: pd.DataFrame | None = None, xlabel: str = "frame") -> Picture:
    """Draw when fissions and fusions happen, ours above and the true ones (if known) beneath.

    events, truth: columns kind ("split" or "merge") and frame; a column status, if any, fades the rejected.
    """
    fig = picture(height_in=2.4)
    ax = fig.add_subplot(xlabel=xlabel)
    given = {"found": events, "true": truth} if truth is not None else {"found": events}
    rows = [(f"{kind}, {who}", kind, table) for kind in ("split", "merge") for who, table in given.items()]
    if not any(len(table) for _, _, table in rows):
        say(ax, "No fission and no fusion.")
        return fig
    for height, (_, kind, table) in enumerate(reversed(rows)):
        shown = table[table["kind"] == kind] if len(table) else table
        colour, marker = (BLUE, "v") if kind == "split" else (VERMILION, "^")
        if len(shown):
            rejected = shown["status"].eq("rejected") if "status" in shown else np.zeros(len(shown), bool)
            style = dict(marker=marker, s=60, c=colour, linewidths=0, alpha=np.where(rejected, 0.25, 0.9))
            ax.scatter(shown["frame"], np.full(len(shown), height), **style)
    counts = [sum(table["kind"] == kind) if len(table) else 0 for _, kind, table in rows]
    names = [f"{name} ({n})" for (name, _, _), n in zip(rows, counts, strict=True)]
    ax.set_yticks(range(len(rows)), names[::-1])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="x", color="#e5e5e5", lw=0.6)
    ax.set_axisbelow(True)
    return fig


def common_bins(values: np.ndarray) -> np.ndarray:
    """Return bin edges for finite values: one bin for each of a few evenly spaced values, else 100 bins."""
    distinct = np.unique(values)
    if len(distinct) == 1:
        return distinct[0] + np.array([-0.5, 0.5])
    step = np.diff(distinct).min()
    span = (distinct[-1] - distinct[0]) / step
    if span <= 100 and np.allclose((distinct - distinct[0]) / step % 1, 0, atol=1e-6):  # whole numbers, times a unit
        return distinct[0] + step * (np.arange(round(span) + 2) - 0.5)
    return np.linspace(distinct[0], distinct[-1], 101)


def finite_of(values) -> np.ndarray:
    values = np.ravel(np.asarray(values, dtype=np.float64))
    return values[np.isfinite(values)]


def cycle(n: int) -> list[str]:
    """Return n colours of the palette that show on white, in order, then from the start again."""
    shown = [colour for colour in PALETTE if colour != YELLOW]
    return [shown[i % len(shown)] for i in range(n)]


def logarithmic(ax: Axes, which: str) -> None:
    """Make axes logarithmic where there is a positive number to show."""
    data = np.concatenate([np.column_stack(line.get_data()) for line in ax.lines]).astype(float)
    if "x" in which and (data[:, 0] > 0).any():
        ax.set_xscale("log")
    if "y" in which and (data[:, 1] > 0).any():
        ax.set_yscale("log")


def beside(ax: Axes) -> None:
    """Put the legend outside, where it hides no data."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)


