"""SEG by hand and against py-ctcmetrics."""

from __future__ import annotations

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.seg import seg
from cellfm_nb.seeds import rng


def test_seg_by_hand() -> None:
    """Three true objects: one found with 4 of 4 and 2 beside it (4/6), one by exactly half (0), one not at all."""
    true, found = np.zeros((2, 4, 4), int), np.zeros((2, 4, 4), int)
    true[0, 0, :4], found[0, 0, :4], found[0, 1, :2] = 1, 7, 7
    true[0, 3, :4], found[0, 3, :2] = 2, 8
    true[1, 0, 0], found[1, 3, 3] = 3, 9
    assert seg([true], [found]) == pytest.approx((4 / 6) / 3)
    assert seg([true], [true]) == 1 and np.isnan(seg([0 * true], [found]))


def test_seg_equals_py_ctcmetrics() -> None:
    theirs = pytest.importorskip("ctc_metrics.metrics.technical.seg", reason="py-ctcmetrics is not installed").seg
    from skimage.metrics import contingency_table

    generator = rng(0, "test", "seg")
    true = np.kron(generator.integers(0, 5, (6, 6)), np.ones((5, 5), int))
    found = np.where(generator.uniform(size=true.shape) < 0.8, true, 0)
    ids = np.arange(1, true.max() + 1)                               # the overlaps by scikit-image
    table = contingency_table(true, found).toarray()
    ious = []
    for k in ids:
        j = int(table[k, 1:].argmax()) + 1
        overlap = table[k, j]
        if 2 * overlap > table[k].sum():
            ious.append(overlap / (table[k].sum() + table[:, j].sum() - overlap))
    assert seg([true], [found]) == pytest.approx(theirs([ids.tolist()], [ious]))


def test_shapes_must_agree() -> None:
    with pytest.raises(InputError, match="shape"):
        seg([np.zeros((2, 2), int)], [np.zeros((2, 3), int)])
