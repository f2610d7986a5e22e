"""Which movies an encoder learns from and which it is tested on: by movie, by content, for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cellfm_nb.seeds import int_seed

TRAIN, VALIDATION = "train", "validation"


def split_movies(digests: Iterable[str], seed: int = 0, share: float = 0.1,
                 known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Assign whole movies to "train" or "validation": neighbouring frames are too alike to stand on both sides.

    Parameters: digests of the movies' contents (a copy under another name falls on the same side); seed; share of
    validation; known, movies assigned before: they stay where they are.
    Returns: {digest: side}. A movie's side is a function of its digest and the seed alone, so no movie moves when
    another is added. One movie alone is for training. With two or more both sides have one: where chance leaves a side
    empty, the new movie nearest to it goes there (and then only `known` keeps it there when more come).
    """
    known = known or {}
    lot = {d: int_seed(seed, "split", d) / 2**63 for d in sorted(set(digests))}
    side = {d: known.get(d, VALIDATION if u < share else TRAIN) for d, u in lot.items()}
    for empty, pick in ((VALIDATION, min), (TRAIN, max)):
        if len(side) > 1 and empty not in side.values():
            free = [d for d in lot if d not in known] or list(lot)
            side[pick(free, key=lot.__getitem__)] = empty
    if len(side) == 1 and not known:  # one movie alone is for learning
        side = dict.fromkeys(side, TRAIN)
    return side
