"""A reader's way through a queue, without a screen: what is shown, what was said, what comes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cellfm_nb.curate.decisions import Decision, Decisions
from cellfm_nb.curate.quality_summary import ranked
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng

SHOW = ("all", "undecided", "unsure")


class Queue(ABC):
    """One reader's way through items: where they are, what they said, what comes next.

    Parameters: items, in the order they are shown; decisions, the file of the readers' words; reader; blind, a random
    order of the reader's own; seed of that order, purpose, its key. It has no state of its own but the place, `here`
    (None when the filter holds nothing): all else is read from the file, so a new kernel goes on where one stopped.
    A subclass says which decision is on which item (`item_of`), and how one is written (`write`).
    """

    def __init__(self, items: Sequence[Any], decisions: str | Path, reader: str, blind: bool = False, seed: int = 0,
                 purpose: str = "") -> None:
        if not reader.strip():
            raise InputError("Who decides?", got="no reader", expected="a name", do="Set reader to your name.")
        self.book, self.reader, self.blind, self.show = Decisions(decisions), reader, blind, "all"
        items = list(items)
        self.order = [items[i] for i in rng(seed, purpose, reader).permutation(len(items))] if blind else items
        left = self.shown("undecided")  # a session goes on where the last one stopped
        self.here: Any = (left or self.order or [None])[0]

    @abstractmethod
    def item_of(self, decision: Decision) -> Any:
        """Return the item a decision is on, None where it is on none of these."""

    @abstractmethod
    def write(self, item: Any, verdict: str, reason: str) -> None:
        """Put a verdict on an item into the file."""

    def changed(self) -> None:
        """Do what must follow when the file has changed: by itself, nothing."""
        return None

    def proposal(self, item: Any) -> str | None:
        """Return what a rule says of an item, where there is one and it may be known."""
        return None

    @property
    def said(self) -> dict[Any, str]:
        """The reader's own verdicts, by item."""
        last = {self.item_of(d): d.verdict for d in self.book.standing(self.reader)}
        return {item: last[item] for item in self.order if item in last}

    def shown(self, show: str | None = None) -> list[Any]:
        """Return the items of a filter, in order: all; undecided by the reader; unsure to them (or to the rule)."""
        show, said = show or self.show, self.said
        keep = {"all": lambda i: True, "undecided": lambda i: i not in said,
                "unsure": lambda i: said.get(i, self.proposal(i)) == "unsure"}[show]
        return [item for item in self.order if keep(item)]

    def decide(self, verdict: str, reason: str = "") -> None:
        """Write a verdict on the item shown, and go on to the next."""
        if self.here is not None:
            self.write(self.here, verdict, reason)
            self.changed()
            self.go(1)

    def undo(self) -> None:
        """Withdraw the reader's last word on these items, and show that item again."""
        known = set(self.order)
        mine = [d for d in self.book.standing(self.reader) if self.item_of(d) in known]
        if mine:
            self.book.withdraw(mine[-1])
            self.changed()
            self.here = self.item_of(mine[-1])

    def go(self, step: int) -> None:
        """Go to the next (1) or previous (-1) item of the filter, round its end; None when it holds none."""
        shown = set(self.shown())
        at = self.order.index(self.here) if self.here in self.order else -1
        around = [self.order[(at + step * k) % len(self.order)] for k in range(1, len(self.order) + 1)]
        self.here = next((item for item in around if item in shown), None)

    def filter(self, show: str) -> None:
        """Change the filter; stay where you are if the item is in it."""
        self.show = show
        if self.here not in self.shown():
            self.go(1)

    def progress(self) -> str:
        """Say how much is decided, and by whom."""
        return f"{len(self.said)} of {len(self.order)} decided by {self.reader}"


class Review(Queue):
    """One reader's way through the frames of one channel.

    Parameters: quality, the rule's table; decisions, the file of the readers' words; reader; movie and digest, the
    name and the digest of the movie's content; channel; blind, a random order of the reader's own, and nothing of the
    rule shown; seed of that order.
    """

    def __init__(self, quality: pd.DataFrame, decisions: str | Path, reader: str, movie: str, digest: str,
                 channel: int = 0, blind: bool = False, seed: int = 0) -> None:
        self.quality, self.movie, self.digest, self.channel = ranked(quality), movie, digest, int(channel)
        super().__init__(self.quality.frame.astype(int).tolist(), decisions, reader, blind, seed, "curation")

    @property
    def frame(self) -> int | None:
        """The frame that is shown."""
        return self.here

    def item_of(self, decision: Decision) -> int | None:
        """Return the frame a decision is on, None for another movie or channel."""
        return decision.frame if (decision.digest, decision.channel) == (self.digest, self.channel) else None

    def write(self, item: int, verdict: str, reason: str) -> None:
        """Put a verdict on a frame into the file."""
        self.book.decide(self.reader, self.movie, self.digest, item, verdict, reason, self.channel)

    def proposal(self, item: int) -> str | None:
        """Return the rule's verdict on a frame; nothing when the reader is blind."""
        return None if self.blind else self.quality.loc[self.quality.frame == item, "verdict"].iloc[0]

    def caption(self) -> str:
        """Say which frame this is, what the rule and the reader said of it, and how much is decided."""
        said, done = self.said, self.progress()
        if self.here is None:
            return f"Nothing to show among: {self.show}. {done}."
        row = self.quality[self.quality.frame == self.here].iloc[0]
        mine = f"you said {said[self.here]}" if self.here in said else "undecided"
        if self.blind:
            return f"Picture {self.order.index(self.here) + 1} of {len(self.order)}: {mine}. {done}."
        why = f" ({row.reason})" if row.reason else ""
        return f"Frame {self.here}, snr {row.snr:.1f}: {row.by} says {row.verdict}{why}; {mine}. {done}."
