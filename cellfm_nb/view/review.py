"""Look at candidate splits and merges one by one, each as a short film, and confirm or reject them in events.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context

from cellfm_nb.atomic import whole
from cellfm_nb.curate.decisions import Decision, Decisions
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.track import apply_review, event_keys, read_events, write_csv
from cellfm_nb.view.canvas import caption, draw, image_grid, nothing
from cellfm_nb.view.desk import Desk
from cellfm_nb.view.pixels import film
from cellfm_nb.view.style import ORANGE, SKY, STYLE, Picture, contrast, nice_length, scale_bar

STATUS_OF = {"accept": "confirmed", "reject": "rejected", "unsure": "unsure"}
AROUND = 3  # frames shown before and after
REACH_UM = (1.0, 1.5, 1.5)  # z, y, x: how far the film reaches from the event


class Clip(NamedTuple):
    """A film around an event: max projections (frames, y, x), their frame numbers, their corner (y, x) in voxels."""

    images: np.ndarray
    frames: list[int]
    corner: tuple[int, int]


class EventReview(Desk):
    """One reader's way through the candidate events, least sure first, made by `event_review`.

    See `Desk` for the widgets and classes; the box is of class "cellfm-review". `widgets["film"]` is the moving
    picture, `widgets["image"]` the strip of the same frames. An item is the name of an event, see `event_keys`.
    """

    css = "cellfm-review"
    words = {"accept": "confirm", "unsure": "unsure", "reject": "reject"}
    width = 320

    def __init__(self, movie: Movie, events_path: Path, decisions: Path, reader: str, tracks: pd.DataFrame,
                 c: int = 0) -> None:
        self.movie, self.events_path, self.tracks, self.c = movie, events_path, tracks, c
        self.events = read_events(events_path)
        keys = event_keys(self.events)
        if len(set(keys)) < len(keys):
            raise InputError("Two events are the same.", where=events_path.name, got=f"{len(keys)} rows, "
                             f"{len(set(keys))} different", expected="kind, frame and place each once",
                             do="Link the objects again.")
        self.rows = dict(zip(keys, self.events.itertuples(), strict=True))
        doubt = self.events["score"].rank(method="first").to_numpy()
        super().__init__([keys[i] for i in np.argsort(doubt)], decisions, reader)
        self.changed()
        self.furnish(("film", "image"))
        if self.widgets:
            self.widgets["image"].width = 900

    def item_of(self, decision: Decision) -> str | None:
        """Return the name of the event a decision is on."""
        return decision.digest if decision.digest in self.rows else None

    def write(self, item: str, verdict: str, reason: str) -> None:
        """Put a verdict on an event into the file of decisions."""
        self.book.decide(self.reader, self.movie.name, item, self.rows[item].frame, verdict, reason, self.c)

    def changed(self) -> None:
        """Write events.csv anew with the statuses that follow from the decisions, whole or not at all."""
        reviewed = apply_review(self.events, decided(self.book))
        if not reviewed["status"].equals(self.events["status"]):
            with whole(self.events_path) as partial:
                write_csv(partial, reviewed)
        self.events = reviewed

    def caption(self) -> str:
        """Say which event this is, how sure the linking is, what was said of it, and how much is decided."""
        said, done = self.said, self.progress()
        if self.here is None:
            return f"Nothing to show among: {self.show}. {done}."
        row = self.rows[self.here]
        mine = f"you said {self.words[said[self.here]]}" if self.here in said else "undecided"
        return f"{told(row)}; {mine}. {done}."

    def pictures(self) -> dict[str, bytes]:
        """Return the film of the event and the strip of its frames."""
        row = self.rows[self.here]
        clip = cut(self.movie, row, self.c)
        texts = [f"{f - row.frame:+d}" if f != row.frame else "0" for f in clip.frames]
        strip = event_figure(self.movie, self.events[self.events["event_id"] == row.event_id], self.tracks, c=self.c)
        moving = film(clip.images, self.movie.spacing_um, texts, width_px=self.width)
        return {"film": moving, "image": strip._repr_png_()}

    def __repr__(self) -> str:
        return f"Review of {len(self.order)} events. {self.caption()}"


def event_review(movie: str | Path, events_path: str | Path, decisions_path: str | Path, reader: str,
                 tracks: pd.DataFrame, *, c: int = 0) -> EventReview:
    """Make the review in which a reader confirms or rejects the candidate splits and merges of a movie.

    Parameters: movie, its path; events_path, events.csv as `write_linking` made it: its column status is written anew
    at every click; decisions_path, a CSV that only grows, from which it can be rebuilt after the objects are linked
    again (see `decided`); reader, a name; tracks, the track table; c, channel.
    Returns: an EventReview; display it. Headless it only holds the state, and `event_figure` is its twin. It never
    waits for anybody. Raises InputError without a reader.
    """
    return EventReview(Movie.open(movie), Path(events_path), Path(decisions_path), reader, tracks, c)


def decided(decisions: Decisions | str | Path) -> dict[str, str]:
    """Return what readers said of events: name of the event -> status; "unsure" where they disagree."""
    book = decisions if isinstance(decisions, Decisions) else Decisions(decisions)
    words = book.current().groupby("digest")["verdict"].unique()
    return {key: STATUS_OF[said[0]] if len(said) == 1 else "unsure" for key, said in words.items()}


def cut(movie: Movie, event: Any, c: int = 0) -> Clip:
    """Cut the film of an event (a row of the event table) out of a movie: a box around it, projected along z."""
    spacing, shape = np.array(movie.spacing_um), np.array(movie.shape[2:])
    reach = np.maximum(np.ceil(np.divide(REACH_UM, spacing)).astype(int), 1)
    centre = np.rint(np.array([event.z_um, event.y_um, event.x_um]) / spacing).astype(int)
    size = np.minimum(2 * reach + 1, shape)
    start = np.clip(centre - reach, 0, shape - size)  # all films are of one size, also at the border
    box = tuple(slice(int(s), int(s + n)) for s, n in zip(start, size, strict=True))
    frames = [f for f in range(event.frame - AROUND, event.frame + AROUND + 1) if 0 <= f < movie.n_frames]
    return Clip(np.stack([movie.frame(f, c)[box].max(0) for f in frames]), frames, (int(start[1]), int(start[2])))


@rc_context(STYLE)
def event_figure(movie: str | Path | Movie, events: pd.DataFrame, tracks: pd.DataFrame, *, c: int = 0, n: int = 6,
                 title: str = "") -> Picture:
    """Draw the static twin of the review: one row of frames for each of the n least sure events.

    Parameters: movie; events and tracks, tables as `link_objects` makes them; c, channel; n, at most so many rows.
    Circles: the parents before the event, the children from it on. One contrast a row.
    """
    if events.empty:
        return nothing(title, "No split and no merge to look at.")
    movie = Movie.open(movie) if isinstance(movie, str | Path) else movie
    shown, step = events.sort_values("score").head(n), movie.spacing_um[1:]
    clips = [cut(movie, row, c) for row in shown.itertuples()]
    wide = 2 * AROUND + 1
    fig, axes = image_grid(wide * len(clips), wide, clips[0].images.shape[1:], movie.spacing_um)
    for line, (row, clip) in enumerate(zip(shown.itertuples(), clips, strict=True)):
        low, high = contrast(clip.images)
        for ax, frame in zip(axes[line * wide:], range(row.frame - AROUND, row.frame + AROUND + 1), strict=False):
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"frame {frame}" if frame == row.frame else f"{frame - row.frame:+d}", fontsize=8)
            if frame not in clip.frames:
                ax.set_axis_off()  # before the movie or after it
                continue
            draw(ax, clip.images[clip.frames.index(frame)], step, low, high)
            circle(ax, tracks, row, frame, np.multiply(clip.corner, step))
        first = max(0, AROUND - row.frame)  # tiles before the movie are empty
        scale_bar(axes[line * wide + first], nice_length(2 * clip.images.shape[2] * step[1]))
        axes[line * wide + AROUND].set_xlabel(f"{told(row)}: {row.status}", fontsize=8)
    many = f"{len(shown)} of {len(events)} events, the least sure first; " if len(events) > 1 else ""
    caption(fig, title, f"{many}circles: parents (blue), children (orange)")
    return fig


def circle(ax: Any, tracks: pd.DataFrame, event: Any, frame: int, corner_um: Sequence[float]) -> None:
    """Circle the parents of an event in frames before it, its children from it on, where they were seen."""
    ids = event.children if frame >= event.frame else event.parents
    rows = tracks[(tracks["frame"] == frame) & tracks["track_id"].isin([int(k) for k in ids.split(";")])]
    colour = ORANGE if frame >= event.frame else SKY
    limits = ax.get_xlim(), ax.get_ylim()
    ax.scatter(rows["x_um"] - corner_um[1], rows["y_um"] - corner_um[0], s=60, facecolors="none", edgecolors=colour,
               linewidths=0.9)
    ax.set(xlim=limits[0], ylim=limits[1])


def told(event: Any) -> str:
    """Say what an event is and how sure the linking is of it."""
    return f"{event.kind} at frame {event.frame}, score {event.score:.2f}"
