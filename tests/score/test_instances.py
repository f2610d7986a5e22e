"""Label scores against a simple independent implementation and on known cases (G8)."""

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.instances import score_instances
from cellfm_nb.seeds import rng


def simple_score(found, true, threshold):
    """Return (AP, mean matched IoU, PQ) by loops over masks; threshold > .5, so that matches are unique."""
    ious = []
    for t in np.unique(true[true > 0]):
        for f in np.unique(found[found > 0]):
            a, b = true == t, found == f
            iou = (a & b).sum() / (a | b).sum()
            if iou >= threshold:
                ious.append(iou)
    n_true, n_found = len(np.unique(true[true > 0])), len(np.unique(found[found > 0]))
    ap = len(ious) / (n_true + n_found - len(ious))
    return ap, np.mean(ious) if ious else 0.0, 2 * np.sum(ious) / (n_true + n_found)


def boxes(seed, n=8, jitter=0):
    """Return labels (8, 30, 30) of n boxes, later ones on top; jitter moves them."""
    draw, move = rng(seed, "boxes"), rng(seed, "jitter", jitter)
    labels = np.zeros((8, 30, 30), np.uint32)
    for k in range(n):
        corner = draw.integers(0, [4, 22, 22]) + (move.integers(0, 2, 3) if jitter else 0)
        size = draw.integers(2, 7, 3)
        labels[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = k + 1
    return labels


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.55, 0.75])
def test_equals_simple_implementation(seed, threshold):
    true, found = boxes(seed), boxes(seed, jitter=1)
    score = score_instances([(found, true)], (threshold,))
    ap, iou, pq = simple_score(found, true, threshold)
    assert score.ap[threshold] == pytest.approx(ap)
    assert score.matched_iou == pytest.approx(iou)
    assert score.panoptic_quality == pytest.approx(pq)


def test_truth_scores_one_and_names_do_not_matter():
    true = boxes(1)
    renamed = rng(0, "names").integers(1, 2**32, 50).astype(np.uint32)
    renamed[0] = 0
    score = score_instances([(renamed[true], true)])
    assert set(score.ap.values()) == {1.0} and score.panoptic_quality == 1 and score.matched_iou == 1


def test_toy_values():
    true = np.zeros((1, 4, 8), np.uint32)
    true[0, :, :4], true[0, :, 4:] = 1, 2
    found = np.zeros_like(true)
    found[0, :, :3] = 5                                      # IoU 12 / 16 with the first, the second is missed
    score = score_instances([(found, true)])
    assert score.ap[0.5] == score.ap[0.75] == 0.5 and score.ap[0.8] == 0
    assert score.matched_iou == 0.75 and score.panoptic_quality == pytest.approx(2 * 0.75 / 3)


def test_one_to_one_below_half():
    true = np.ones((1, 1, 10), np.uint32)
    found = np.ones_like(true)
    found[..., 5:] = 2                                       # two halves: only one may claim the object
    assert score_instances([(found, true)], (0.4,)).ap[0.4] == 0.5
    assert score_instances([(found, true)], (0.5,)).ap[0.5] == 0.5


def test_merged_objects_cost_precision():
    true = boxes(3)
    assert score_instances([((true > 0).astype(np.uint32), true)]).ap[0.5] < 0.2


def test_frames_add_up_and_empty_is_perfect():
    a, b = boxes(1), boxes(2)
    both = score_instances([(a, a), (np.zeros_like(b), b)])
    n_a, n_b = len(np.unique(a)) - 1, len(np.unique(b)) - 1
    assert both.ap[0.5] == pytest.approx(n_a / (n_a + n_b)) and both.n_frames == 2
    assert score_instances([(np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int))]).ap[0.5] == 1


def test_other_shape_is_said():
    with pytest.raises(InputError, match="shape"):
        score_instances([(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int))])
