"""Lineage: which track became which, drawn as lines over time that part at fissions and join at fusions."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib import rc_context
from matplotlib.collections import LineCollection

from cellfm_nb.view.canvas import nothing
from cellfm_nb.view.style import GREY, STYLE, Picture, picture, track_colour

MAX_TRACKS = 200  # lines in one picture: more can't be followed by eye


@dataclass(frozen=True)
class Lineage:
    """Where each track is drawn, and what joins them.

    spans: one row per track: track_id, height (0, 1, ...), first and last frame.
    joins: one row per parent and child: kind, parent, child, their heights y0, y1, frames x0, x1.
    told: what was left out, "" if nothing.
    """

    spans: pd.DataFrame
    joins: pd.DataFrame
    told: str


def lineage(tracks: pd.DataFrame, events: pd.DataFrame, most: int = MAX_TRACKS) -> Lineage:
    """Lay out the tracks that take part in an event, families together, parents above their children.

    Parameters: tracks, columns track_id and frame; events, columns kind, parents and children (ids joined by ";");
    events with status "rejected" are left out, so are those whose tracks are not in the table; most, tracks drawn:
    whole families, largest first.
    """
    span = tracks.groupby("track_id")["frame"].agg(["min", "max"])
    pairs = [(e.kind, int(p), int(c)) for e in events.itertuples() if getattr(e, "status", "") != "rejected"
             for p in str(e.parents).split(";") for c in str(e.children).split(";")]
    pairs = [pair for pair in pairs if pair[1] in span.index and pair[2] in span.index]
    all_families = families(pairs)
    kept: list[list[int]] = []
    for family in sorted(all_families, key=len, reverse=True):
        if kept and sum(map(len, kept)) + len(family) > most:
            break
        kept.append(family)
    height = {k: i for i, k in enumerate(k for family in kept for k in family)}
    spans = pd.DataFrame([(k, y, *span.loc[k]) for k, y in height.items()],
                         columns=["track_id", "height", "first", "last"])
    joins = pd.DataFrame([(kind, p, c, height[p], height[c], span.loc[p, "max"], span.loc[c, "min"])
                          for kind, p, c in pairs if p in height],
                         columns=["kind", "parent", "child", "y0", "y1", "x0", "x1"])
    told = "" if len(kept) == len(all_families) else f"{len(kept)} of {len(all_families)} families, the largest"
    return Lineage(spans, joins, told)


def families(pairs: list[tuple[str, int, int]]) -> list[list[int]]:
    """Return the tracks of each family, every track after the parent it was first reached from."""
    near: dict[int, list[int]] = {}
    for _, parent, child in pairs:
        near.setdefault(parent, []).append(child)
        near.setdefault(child, []).append(parent)
    born = {child for _, _, child in pairs}
    seen: set[int] = set()
    found = []
    for root in sorted(near, key=lambda k: (k in born, k)):
        family, waiting = [], [root]
        while waiting:
            if (k := waiting.pop()) not in seen:
                seen.add(k)
                family.append(k)
                waiting += sorted(near[k], reverse=True)
        if family:
            found.append(family)
    return found


@rc_context(STYLE)
def lineage_figure(tracks: pd.DataFrame, events: pd.DataFrame, most: int = MAX_TRACKS) -> Picture:
    """Draw the lineage: a line per track, a slanted line from parent to child."""
    tree = lineage(tracks, events, most)
    if tree.spans.empty:
        return nothing("", "No fission and no fusion: every track is a family of its own.")
    fig = picture(height_in=1.2 + 0.09 * len(tree.spans))
    ax = fig.add_subplot(xlabel="frame", yticks=[], ylabel=f"{len(tree.spans)} tracks")
    s, j = tree.spans, tree.joins
    lines = [[(a, y), (b, y)] for a, b, y in zip(s["first"], s["last"], s["height"], strict=True)]
    ax.add_collection(LineCollection(lines, colors=[track_colour(k) for k in s["track_id"]], linewidths=2))
    links = [[(a, y0), (b, y1)] for a, b, y0, y1 in zip(j["x0"], j["x1"], j["y0"], j["y1"], strict=True)]
    ax.add_collection(LineCollection(links, colors=GREY, linewidths=0.8))
    ax.scatter(s["first"], s["height"], s=8, c=[track_colour(k) for k in s["track_id"]], linewidths=0)
    ax.autoscale()
    ax.invert_yaxis()
    ax.set_title(tree.told, fontsize=9)
    return fig
