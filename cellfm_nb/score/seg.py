"""Score masks by the Cell Tracking Challenge's SEG: how well each true object is covered by the one that has it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cellfm_nb.errors import InputError


def seg(true_labels: Iterable[np.ndarray], found_labels: Iterable[np.ndarray]) -> float:
    """Return the mean, over true objects of all frames, of the Jaccard index with the found object that has them.

    Parameters: label images, one frame at a time (memory holds one), 0 background. A found object has a true one when
    it covers more than half of it; without such, the index is 0; false objects do not count (Matula et al. 2015).
    nan without a true object. Raises InputError when two frames differ in shape.
    """
    index, n = 0.0, 0
    for frame, (true, found) in enumerate(zip(true_labels, found_labels, strict=True)):
        if true.shape != found.shape:
            raise InputError("The label images differ in shape.", where=f"frame {frame}", got=found.shape,
                             expected=true.shape, do="Give the labels of the same movie.")
        t, f = true.ravel().astype(np.int64), found.ravel().astype(np.int64)
        names, size = np.unique(t[t > 0], return_counts=True)
        area = np.bincount(f, minlength=1)
        both = (t > 0) & (f > 0)
        width = int(f.max(initial=0)) + 1
        pairs, shared = np.unique(t[both] * width + f[both], return_counts=True)
        of, by = np.divmod(pairs, width)
        whole = size[np.searchsorted(names, of)]
        has = 2 * shared > whole
        index += float((shared[has] / (whole[has] + area[by[has]] - shared[has])).sum())
        n += len(names)
    return index / n if n else float("nan")
