"""How far two readers agree beyond chance: Cohen's kappa, with how much it stands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellfm_nb.curate.decisions import Decisions
from cellfm_nb.errors import InputError


@dataclass(frozen=True)
class Agreement:
    """Cohen's kappa (NaN where it is undefined), the share of equal verdicts, how many were compared, and a note."""

    kappa: float
    equal: float
    n: int
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"kappa {self.kappa:.2f}, {100 * self.equal:.0f}% equal, n = {self.n}{note}"


def cohen_kappa(a: Sequence[str], b: Sequence[str]) -> Agreement:
    """Compare two readers' verdicts of the same frames, in the same order.

    Returns: Agreement; kappa = (observed - expected) / (1 - expected) agreement, expected from each reader's own
    shares (Cohen 1960): 1 for equal verdicts, 0 for what chance gives. Raises InputError on unequal lengths.
    """
    if len(a) != len(b):
        raise InputError("The readers did not judge the same frames.", got=f"{len(a)} and {len(b)} verdicts",
                         expected="one of each for every frame", do="Compare the frames both have decided.")
    if not len(a):
        return Agreement(np.nan, np.nan, 0, "no frame was decided by both")
    a, b = np.asarray(a), np.asarray(b)
    observed = float((a == b).mean())
    expected = float(sum((a == word).mean() * (b == word).mean() for word in set(a) | set(b)))
    if len(set(a) | set(b)) == 1:
        return Agreement(np.nan, observed, len(a), f"both said {a[0]} to everything: chance would agree as often")
    return Agreement((observed - expected) / (1 - expected), observed, len(a))


def agreement(decisions: Decisions, reader_a: str, reader_b: str) -> Agreement:
    """Compare the last words of two readers on the frames both have decided (see `cohen_kappa`)."""
    both = decisions.current(reader_a).merge(decisions.current(reader_b), on=["digest", "channel", "frame"])
    return cohen_kappa(both.verdict_x.tolist(), both.verdict_y.tolist())
