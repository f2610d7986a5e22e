"""What readers decided, frame by frame: a file that only grows, from which every state can be rebuilt."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pandas as pd
from filelock import FileLock

from cellfm_nb.errors import InputError
from cellfm_nb.provenance import now

VERDICTS = ("accept", "reject", "unsure")
WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Decision:
    """One line of the file: who said what of which frame of which movie (digest of its content), when, and why."""

    time: str
    reader: str
    movie: str
    digest: str
    channel: int
    frame: int
    verdict: str  # accept | reject | unsure, or withdrawn: the reader's last word on this frame is taken back
    reason: str = ""

    @property
    def item(self) -> tuple[str, int, int]:
        """What was judged: (digest, channel, frame)."""
        return self.digest, self.channel, self.frame


HEADER = [f.name for f in fields(Decision)]


class Decisions:
    """The decisions in a CSV file: every one is on disk before `decide` returns, and none is ever changed.

    Attributes: path; log, all lines in order; notes, what was wrong with the file (a line torn by a crash is left
    out and said, never guessed). Several readers, or one in several windows, may write the same file.
    Raises InputError when the file is of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.reload()

    def reload(self) -> None:
        """Read the file again."""
        self.log, self.notes = [], []
        try:
            text = self.path.read_bytes().decode("utf-8-sig", "replace") if self.path.exists() else ""
        except OSError as error:
            raise InputError("The decisions can't be read.", where=self.path, got=error.strerror,
                             expected=",".join(HEADER), do="Check what it is, and who may read it.") from None
        *lines, torn = text.split("\n")  # every whole line ends in a newline
        if torn:
            self.notes.append(f"{self.path.name}: the last line is torn and left out: {torn[:80]!r}")
        first = next(csv.reader(lines[:1]), []) if lines else HEADER if ",".join(HEADER).startswith(torn) else [torn]
        if first != HEADER:
            raise InputError("This is no file of decisions.", where=self.path.name, got=",".join(first)[:80],
                             expected=",".join(HEADER), do="Choose another name; this file was not touched.")
        for number, line in enumerate(lines[1:], 2):
            try:
                time, reader, movie, digest, channel, frame, verdict, reason = next(csv.reader([line]))
                if verdict not in (*VERDICTS, WITHDRAWN):
                    raise ValueError(verdict)
                self.log.append(Decision(time, reader, movie, digest, int(channel), int(frame), verdict, reason))
            except (ValueError, StopIteration):
                self.notes.append(f"{self.path.name}: line {number} is no decision and left out: {line[:80]!r}")

    def decide(self, reader: str, movie: str, digest: str, frame: int, verdict: str, reason: str = "",
               channel: int = 0) -> Decision:
        """Write a decision. Raises InputError on an unknown verdict, or a reader without a name."""
        if verdict not in VERDICTS or not reader.strip():
            raise InputError("This is no decision.", got=f"{verdict!r} by {reader!r}",
                             expected=f"{', '.join(VERDICTS)}, and the reader's name", do="Say who decides what.")
        return self._write(Decision(now(), tidy(reader), tidy(movie), digest, int(channel), int(frame), verdict,
                                    tidy(reason)))

    def undo(self, reader: str) -> Decision | None:
        """Withdraw the last standing decision of a reader (what was said before holds again); None if none stands."""
        standing = self.standing(reader)
        return self.withdraw(standing[-1]) if standing else None

    def withdraw(self, last: Decision) -> Decision:
        """Take back a reader's last word on a frame; return it."""
        self._write(Decision(now(), last.reader, last.movie, last.digest, last.channel, last.frame, WITHDRAWN))
        return last

    def standing(self, reader: str | None = None) -> list[Decision]:
        """Return the decisions not withdrawn, oldest first, of a reader or of all."""
        kept: list[Decision] = []
        for decision in self.log:
            if reader is not None and decision.reader != tidy(reader):
                continue
            if decision.verdict != WITHDRAWN:
                kept.append(decision)
                continue
            mine = [i for i, d in enumerate(kept) if (d.reader, d.item) == (decision.reader, decision.item)]
            if mine:
                del kept[mine[-1]]
        return kept

    def current(self, reader: str | None = None) -> pd.DataFrame:
        """Return the last word of each reader on each frame: a table with the file's columns."""
        last = {(d.reader, d.item): d for d in self.standing(reader)}
        return pd.DataFrame([astuple(d) for d in last.values()], columns=HEADER)

    def of(self, digest: str, reader: str | None = None) -> pd.DataFrame:
        """Return the last words on one movie (see `current`)."""
        last = self.current(reader)
        return last[last.digest == digest].reset_index(drop=True)

    def _write(self, decision: Decision) -> Decision:
        """Append a line, and come back when it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(astuple(decision))
        with FileLock(self.path.with_name(f".{self.path.name}.lock")), open(self.path, "a+b") as stream:
            stream.seek(0)
            whole = stream.read().rpartition(b"\n")
            stream.truncate(len(whole[0] + whole[1]))  # half a line of a crash: never a decision
            head = "" if whole[1] else ",".join(HEADER) + "\n"
            stream.write((head + line.getvalue()).encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.reload()
        return decision


def tidy(text: str) -> str:
    """Return a text on one line: one line of the file is one record."""
    return " ".join(text.split())


def apply_decisions(quality: pd.DataFrame, decisions: Decisions | pd.DataFrame | str | Path,
                    reader: str | None = None, movie: str | None = None, channel: int = 0) -> pd.DataFrame:
    """Put the readers' verdicts over the rule's.

    Parameters: quality, from `quality_table`; decisions, their file, or a table from `Decisions.current`; reader,
    whose (None: all; where they disagree the frame is "unsure" and the reason says who said what); movie, the digest
    of its content (None: the decisions are on one movie); channel.
    Returns: the table with verdict, by (the readers) and reason replaced where somebody decided; the rest is the
    rule's. Without any decision this is the rule alone.
    """
    if isinstance(decisions, str | Path):
        decisions = Decisions(decisions)
    said = decisions.current() if isinstance(decisions, Decisions) else decisions
    said = said[(said.channel == channel) & ((said.digest == movie) if movie is not None else True)
                & ((said.reader == tidy(reader)) if reader is not None else True)]
    if movie is None and said.digest.nunique() > 1:
        raise InputError("These decisions are on several movies.", got=", ".join(sorted(set(said.movie))),
                         expected="one movie", do="Give movie=, its digest.")
    quality = quality.copy()
    by_frame = dict(tuple(said.groupby("frame")))
    for i in quality.index:
        words = by_frame.get(quality.frame[i])
        if words is None:
            continue
        agreed = words.verdict.nunique() == 1
        told = (words.reason if agreed else words.reader + ": " + words.verdict).tolist()
        quality.loc[i, ["verdict", "by", "reason"]] = [
            words.verdict.iloc[0] if agreed else "unsure", ", ".join(words.reader), "; ".join(filter(None, told))]
    return quality
