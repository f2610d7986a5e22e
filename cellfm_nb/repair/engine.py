"""Repair what alarms, and leave a healthy encoder as it is, to the bit.

The repair is closed-form (clip the singular values that stand alone), then, where wanted and still needed, a short
training of relative singular values towards the neighbourhood. The published recipe is kept as `PUBLISHED`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellfm_nb.progress import busy
from cellfm_nb.repair.detect import detect
from cellfm_nb.repair.spectrum import clip_spectrum
from cellfm_nb.repair.train import Recipe, train_singular_values

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder


@busy("repair")
def repair(encoder: Encoder, volumes: Sequence[np.ndarray], clip: bool = True, train: Recipe | None = None,
           ) -> tuple[Encoder, pd.DataFrame]:
    """Repair the blocks that alarm; a healthy encoder comes back unchanged.

    Parameters: encoder, left as it is; volumes, as for `detect`; clip, cut singular values that stand alone; train, a
    `Recipe` for the blocks that still alarm after that (RELATIVE, undone where it makes the excess larger; or
    PUBLISHED, which looks at every block whether it alarms or not, and stays).
    Returns: a repaired copy, and the table of `detect` with, per block, repaired (what was done), and gap_after,
    growth_after, excess_after, flagged_after, alarm_after.
    """
    before, mended = detect(encoder, volumes), copy.deepcopy(encoder)
    after, done = before, ["" for _ in mended.blocks]
    if clip and before["alarm"].any():
        for i in alarmed(before):
            done[i] = f"clipped {clip_spectrum(mended.blocks[i])} singular value(s)"
        after = detect(mended, volumes)
    if train is not None and (after["alarm"].any() or not train.alarmed_only):
        clipped, steps = copy.deepcopy(mended), train_singular_values(mended, volumes, train, alarmed(after))
        trained = detect(mended, volumes)
        harm = train.alarmed_only and trained["excess"].max() > after["excess"].max()
        mended, after = (clipped, after) if harm else (mended, trained)
        for i, n in steps.items():
            done[i] = "; ".join(filter(None, [done[i], f"trained {n} steps{', undone' if harm else ''}"]))
    table = before.assign(repaired=[what or "nothing" for what in done])
    for name in ("gap", "growth", "excess", "flagged", "alarm"):
        table[f"{name}_after"] = after[name]
    return mended, table


def alarmed(table: pd.DataFrame) -> list[int]:
    """Return the blocks that alarm."""
    return [int(i) for i in table.loc[table["alarm"], "block"]]
