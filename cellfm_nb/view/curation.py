"""Look through a movie's frames and say accept, reject or unsure: every click is on disk before the next picture."""

from __future__ import annotations

import functools
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context

from cellfm_nb.curate.decisions import VERDICTS
from cellfm_nb.curate.decisions_review import SHOW, Review
from cellfm_nb.curate.quality_summary import ranked
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.provenance import outside_digest
from cellfm_nb.view.canvas import caption, draw, image_grid, nothing
from cellfm_nb.view.style import GREEN, STYLE, VERMILION, YELLOW, Picture, contrast, nice_length, scale_bar
from cellfm_nb.view.where import headless

COLOURS = {"accept": GREEN, "unsure": YELLOW, "reject": VERMILION}
STYLES = {"accept": "success", "unsure": "warning", "reject": "danger"}
Projections = Mapping[int, np.ndarray] | Sequence[np.ndarray] | np.ndarray  # (y, x) by frame


class Gallery(Review):
    """Show a `Review` as widgets, made by `curation_gallery`; `widgets` holds them by name (empty headless)."""

    def __init__(self, projection: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.projection = projection
        self.widgets: dict[str, Any] = {}
        self._box = None if headless() else self._build()

    def _build(self) -> Any:
        import ipywidgets as w

        buttons = {v: w.Button(description=v, button_style=STYLES[v]) for v in VERDICTS}
        moves = {name: w.Button(description=name) for name in ("previous", "next", "undo")}
        self.widgets = {"image": w.Image(format="png", width=480), "caption": w.HTML(), "message": w.HTML(),
                        "reason": w.Text(placeholder="reason (optional)", continuous_update=True),
                        "show": w.ToggleButtons(options=SHOW, value=self.show), **buttons, **moves}

        def said(verdict: str) -> None:
            self.decide(verdict, self.widgets["reason"].value)
            self.widgets["reason"].value = ""  # only once it is on disk

        actions = {v: functools.partial(said, v) for v in VERDICTS} | {
            "previous": functools.partial(self.go, -1), "next": functools.partial(self.go, 1), "undo": self.undo}
        for name, action in actions.items():
            self.widgets[name].on_click(lambda _, action=action: self._do(action))
        self.widgets["show"].observe(lambda change: self._do(functools.partial(self.filter, change["new"])), "value")
        self._do(lambda: None)
        return w.VBox([self.widgets["show"], self.widgets["image"], self.widgets["caption"], self.widgets["reason"],
                       w.HBox(list(buttons.values())), w.HBox(list(moves.values())), self.widgets["message"]])

    def _do(self, action: Any) -> None:
        """Do what was clicked and draw again; what goes wrong is said beneath the buttons, never lost in a log."""
        try:
            action()
            told = "; ".join(self.book.notes)
        except (InputError, OSError) as error:
            told = f"Not written: {error}"
        self.widgets["message"].value = html.escape(told)
        self.widgets["caption"].value = html.escape(self.caption())
        self.widgets["image"].layout.visibility = "hidden" if self.frame is None else "visible"
        if self.frame is not None:
            self.widgets["image"].value = png(self.projection(self.frame))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(self._box._repr_mimebundle_(**kwargs)) if self._box is not None else {}
        return bundle | {"text/plain": repr(self)}

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
    if spacing != (1.0, 1.0, 1.0):
        scale_bar(axes[0], nice_length(2 * images[0].shape[1] * spacing[2]))  # a longer one: tiles are small
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


def png(image: np.ndarray) -> bytes:
    """Return an image (y, x) as PNG, contrast from its own percentiles."""
    from PIL import Image

    low, high = contrast(image)
    grey = np.clip((np.nan_to_num(image.astype(np.float32)) - low) / (high - low), 0, 1)
    stream = io.BytesIO()
    Image.fromarray((255 * grey).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def shorten(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
