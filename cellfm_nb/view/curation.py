"""Look through a movie's frames and say accept, reject or unsure: every click is on disk before the next picture."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context

from cellfm_nb.curate.decisions import VERDICTS
from cellfm_nb.curate.decisions_review import Review
from cellfm_nb.curate.quality_summary import ranked
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.provenance import outside_digest
from cellfm_nb.view.canvas import caption, draw, image_grid, nothing
from cellfm_nb.view.desk import Desk
from cellfm_nb.view.pixels import png
from cellfm_nb.view.style import GREEN, STYLE, VERMILION, YELLOW, Picture, contrast, nice_length, scale_bar

COLOURS = {"accept": GREEN, "unsure": YELLOW, "reject": VERMILION}
Projections = Mapping[int, np.ndarray] | Sequence[np.ndarray] | np.ndarray  # (y, x) by frame


class Gallery(Desk, Review):
    """Show a `Review` of frames as widgets, made by `curation_gallery` (see `Desk` for the widgets and classes)."""

    css = "cellfm-gallery"

    def __init__(self, projection: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.projection = projection
        self.furnish()

    caption = Review.caption

    def pictures(self) -> dict[str, bytes]:
        """Return the projection of the frame shown."""
        return {"image": png(self.projection(self.here), getattr(self.projection, "spacing_um", None))}

    def __repr__(self) -> str:
        return f"Gallery of {self.movie}, channel {self.channel}. {self.caption()}"


def curation_gallery(movie: str | Path | Projections, quality: pd.DataFrame, decisions_path: str | Path, reader: str,
                     *, c: int = 0, blind: bool = False, seed: int = 0, name: str = "", digest: str = "") -> Gallery:
    """Make the gallery in which a reader decides on the frames of a movie.

    Parameters: movie, its path (frames are loaded one at a time), or max projections (y, x) by frame with the movie's
    name and digest; quality, from `quality_table`, best frames first; decisions_path, the CSV that every click goes
    to; reader, a name; c, channel; blind, random order and nothing of the rule shown; seed of that order.
    Returns: a Gallery; display it. Headless it only holds the state: `apply_decisions` and `gallery_figure` are the
    twins. It never waits for anybody. Raises InputError without a reader, or projections without a digest.
    """
    if isinstance(movie, str | Path):
        name, digest = name or Movie.open(movie).name, digest or outside_digest(Path(movie))
    if not digest:
        raise InputError("Of which movie are these projections?", got="no digest", expected="digest=, as the index "
                         "of the shards or outside_digest(path) gives it", do="Give it, or the path of the movie.")
    return Gallery(projector(movie, c), quality, decisions_path, reader, name, digest, c, blind, seed)


@rc_context(STYLE)
def gallery_figure(movie: str | Path | Movie | Projections, quality: pd.DataFrame, *, c: int = 0, n: int = 12,
                   ncols: int = 6, title: str = "") -> Picture:
    """Draw the static twin of the gallery: max projections, best first, framed by their verdict.

    Parameters: movie, a path, a Movie, or projections (y, x) by frame; quality, with or without readers' decisions; c,
    channel; n, at most so many, spread evenly over the ranks; each with its own contrast.
    """
    table = ranked(quality)
    if table.empty:
        return nothing(title, "No frame to show.")
    table = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(n, len(table))).round().astype(int))]
    look = projector(movie, c)
    spacing = getattr(look, "spacing_um", (1.0, 1.0, 1.0))
    images = [look(int(frame)) for frame in table.frame]
    fig, axes = image_grid(len(images), ncols, images[0].shape, spacing)
    for ax, image, row in zip(axes, images, table.itertuples(), strict=True):
        draw(ax, image, spacing[1:], *contrast(image))
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set(visible=True, color=COLOURS[row.verdict], linewidth=3)
        ax.set_title(f"{row.frame}: {row.verdict}", fontsize=9)
        ax.set_xlabel(shorten(row.reason or f"snr {row.snr:.1f}"), fontsize=7)
    unit = "px" if spacing == (1.0, 1.0, 1.0) else "µm"
    scale_bar(axes[0], nice_length(2 * images[0].shape[1] * spacing[2]), unit=unit)  # a longer one: tiles are small
    count = quality.verdict.value_counts()
    told = ", ".join(f"{count.get(v, 0)} {v}" for v in VERDICTS)
    deciders = ", ".join(sorted({who for by in quality.by for who in str(by).split(", ")}))
    caption(fig, title, f"max projections, best first ({len(images)} of {len(quality)}): {told}; decided by {deciders}")
    return fig


def projector(movie: str | Path | Movie | Projections, c: int = 0) -> Any:
    """Return a function frame -> max projection (y, x), with the movie's spacing_um; it keeps the last few.

    A frame that can't be read is black.
    """
    movie = Movie.open(movie) if isinstance(movie, str | Path) else movie

    @functools.lru_cache(maxsize=16)
    def look(frame: int) -> np.ndarray:
        if not isinstance(movie, Movie):
            return movie[frame]
        try:
            return movie.frame(frame, c).max(0)
        except InputError:  # a damaged frame is black: never another frame's picture under its number
            return np.zeros(movie.shape[3:], movie.dtype)

    if isinstance(movie, Movie):
        look.spacing_um = movie.spacing_um
    return look


def shorten(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
