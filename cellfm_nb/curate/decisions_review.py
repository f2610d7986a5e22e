"""A reader's way through the frames of a movie, without a screen: what is shown, what was said, what comes next."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cellfm_nb.curate.decisions import Decisions
from cellfm_nb.curate.quality_summary import ranked
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng

SHOW = ("all", "undecided", "unsure")


class Review:
    """One reader's way through the frames of one channel: where they are, what they said, what comes next.

    Parameters: quality, the rule's table; decisions, the file of the readers' words; reader; movie and digest, the
    name and the digest of the movie's content; channel; blind, a random order of the reader's own, and nothing of the
    rule shown; seed of that order. It has no state of its own but the place: all else is read from the file.
    """

    def __init__(self, quality: pd.DataFrame, decisions: str | Path, reader: str, movie: str, digest: str,
                 channel: int = 0, blind: bool = False, seed: int = 0) -> None:
        if not reader.strip():
            raise InputError("Who decides?", got="no reader", expected="a name", do="Set reader to your name.")
        self.quality, self.book = ranked(quality), Decisions(decisions)
        self.reader, self.movie, self.digest, self.channel = reader, movie, digest, int(channel)
        self.blind, self.show = blind, "all"
        frames = self.quality.frame.astype(int).tolist()
        self.order = rng(seed, "curation", reader).permutation(frames).tolist() if blind else frames
        left = self.shown("undecided")  # a session goes on where the last one stopped
        self.frame: int | None = (left or self.order or [None])[0]

    @property
    def said(self) -> dict[int, str]:
        """The reader's own verdicts, by frame."""
        last = self.book.of(self.digest, self.reader)
        last = last[last.channel == self.channel]
        return dict(zip(last.frame.astype(int), last.verdict, strict=True))

    def shown(self, show: str | None = None) -> list[int]:
        """Return the frames of a filter, in order: all; undecided by the reader; unsure to them (or to the rule)."""
        show, said = show or self.show, self.said
        rule = {} if self.blind else dict(zip(self.quality.frame, self.quality.verdict, strict=True))
        keep = {"all": lambda f: True, "undecided": lambda f: f not in said,
                "unsure": lambda f: said.get(f, rule.get(f)) == "unsure"}[show]
        return [f for f in self.order if keep(f)]

    def decide(self, verdict: str, reason: str = "") -> None:
        """Write a verdict on the frame shown, and go on to the next."""
        if self.frame is not None:
            self.book.decide(self.reader, self.movie, self.digest, self.frame, verdict, reason, self.channel)
            self.go(1)

    def undo(self) -> None:
        """Withdraw the reader's last word on this movie, and show that frame again."""
        mine = [d for d in self.book.standing(self.reader) if (d.digest, d.channel) == (self.digest, self.channel)]
        if mine:
            self.book.withdraw(mine[-1])
            self.frame = mine[-1].frame

    def go(self, step: int) -> None:
        """Go to the next (1) or previous (-1) frame of the filter, round its end; None when it holds none."""
        shown = set(self.shown())
        at = self.order.index(self.frame) if self.frame in self.order else -1
        around = [self.order[(at + step * k) % len(self.order)] for k in range(1, len(self.order) + 1)]
        self.frame = next((f for f in around if f in shown), None)

    def filter(self, show: str) -> None:
        """Change the filter; stay where you are if the frame is in it."""
        self.show = show
        if self.frame not in self.shown():
            self.go(1)

    def caption(self) -> str:
        """Say which frame this is, what the rule and the reader said of it, and how much is decided."""
        said = self.said
        done = f"{len(said)} of {len(self.order)} decided by {self.reader}"
        if self.frame is None:
            return f"Nothing to show among: {self.show}. {done}."
        row = self.quality[self.quality.frame == self.frame].iloc[0]
        mine = f"you said {said[self.frame]}" if self.frame in said else "undecided"
        if self.blind:
            return f"Picture {self.order.index(self.frame) + 1} of {len(self.order)}: {mine}. {done}."
        why = f" ({row.reason})" if row.reason else ""
        return f"Frame {self.frame}, snr {row.snr:.1f}: {row.by} says {row.verdict}{why}; {mine}. {done}."
