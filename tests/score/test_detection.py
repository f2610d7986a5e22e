"""Point matching against brute force; F1, localisation error and intervals on known cases."""

import itertools

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.detection import bootstrap_interval, f1_of_counts, match_points, score_detection
from cellfm_nb.seeds import rng


def brute_force(found, true, radius):
    """Return (pairs, least total distance) over all one-to-one pairings, by enumeration."""
    d = np.linalg.norm((found[:, None] - true) / radius, axis=2)
    if len(found) > len(true):
        d = d.T
    best = (0, 0.0)
    for columns in itertools.permutations(range(d.shape[1]), d.shape[0]):
        picked = d[np.arange(d.shape[0]), columns]
        picked = picked[picked <= 1]
        best = max(best, (len(picked), -picked.sum()))
    return best[0], -best[1]


def greedy(found, true, radius):
    """Return the number of pairs of nearest-first pairing: the wrong variant."""
    d = np.linalg.norm((found[:, None] - true) / radius, axis=2)
    n = 0
    while d.size and d.min() <= 1:
        i, j = np.unravel_index(d.argmin(), d.shape)
        d = np.delete(np.delete(d, i, 0), j, 1)
        n += 1
    return n


@pytest.mark.parametrize("case", range(25))
def test_matching_equals_brute_force(case):
    draw = rng(7, "match", case)
    found = draw.uniform(0, 1, (draw.integers(0, 7), 3))
    true = draw.uniform(0, 1, (draw.integers(0, 7), 3))
    radius = np.array([0.7, 0.4, 0.4])
    pairs = match_points(found, true, radius)
    n, total = brute_force(found, true, radius)
    assert len(pairs.found) == n == len(set(pairs.found)) == len(set(pairs.true))
    np.testing.assert_allclose(pairs.distance.sum(), total, atol=1e-9)


def test_greedy_pairing_would_lose_a_pair():
    found = np.array([[0, 0, 0.0], [0, 0, 0.9]])
    true = np.array([[0, 0, 0.4], [0, 0, -0.6]])      # the nearest pair (0, 0) leaves found 1 alone
    assert greedy(found, true, 0.7) == 1
    assert len(match_points(found, true, 0.7).found) == 2


def test_toy_score_and_error_per_axis():
    true = np.array([[1, 1, 1.0], [2, 2, 2], [3, 3, 3]])
    found = np.array([[1.1, 1, 1], [2, 2.2, 2], [9, 9, 9], [8, 8, 8]])
    score = score_detection([(found, true)], 0.5)
    assert (score.tp, score.fp, score.fn) == (2, 2, 1)
    assert score.f1 == pytest.approx(4 / 7)
    np.testing.assert_allclose(score.rmse_um, [np.sqrt(0.005), np.sqrt(0.02), 0], atol=1e-12)


def test_truth_scores_one_in_any_order_and_empty_is_perfect():
    true = rng(1, "order").uniform(0, 5, (40, 3))
    assert score_detection([(true[::-1], true)], 0.1).f1 == 1
    assert score_detection([(true[:0], true[:0])], 0.1).f1 == 1
    assert score_detection([(true[:0], true)], 0.1).f1 == 0


def test_twenty_thousand_points_stay_cheap():
    true = rng(2, "many").uniform(0, 40, (20_000, 3))
    found = true + rng(2, "jitter").normal(0, 0.05, true.shape)
    assert score_detection([(found, true)], 0.3).recall > 0.99


def test_interval_covers_and_narrows():
    counts = [(int(tp), 10 - int(tp), 10 - int(tp)) for tp in rng(3, "counts").binomial(10, 0.8, 60)]
    low, high = bootstrap_interval(counts, f1_of_counts, seed=1)
    few_low, few_high = bootstrap_interval(counts[:6], f1_of_counts, seed=1)
    assert low < f1_of_counts(counts) < high and abs(f1_of_counts(counts) - 0.8) < 0.05
    assert high - low < few_high - few_low
    assert (low, high) == bootstrap_interval(counts, f1_of_counts, seed=1)


def test_bad_radius_is_said():
    with pytest.raises(InputError, match="radius"):
        match_points(np.zeros((1, 3)), np.zeros((1, 3)), -1)
