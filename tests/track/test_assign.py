"""The combinatorics against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cellfm_nb.seeds import rng
from cellfm_nb.track.assign import assign, confidence, pack, prices


def problem(seed: int, n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = rng(seed, "test", "assign", n, m)
    a, b = np.nonzero(generator.uniform(size=(n, m)) < 0.7)
    return a, b, generator.normal(0.5, 2, len(a))


def best_by_trying(a: np.ndarray, b: np.ndarray, gain: np.ndarray, n: int, m: int) -> float:
    table = np.full((n, m + n), 0.0)
    table[:, :m] = -np.inf
    table[a, b] = gain
    return max(sum(table[i, c] for i, c in enumerate(p)) for p in itertools.permutations(range(m + n), n))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (4, 2), (2, 5), (4, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_the_best_of_all(seed: int, n: int, m: int) -> None:
    a, b, gain = problem(seed, n, m)
    chosen = assign(a, b, gain, n, m)
    assert len(np.unique(a[chosen])) == len(np.unique(b[chosen])) == len(chosen)
    assert gain[chosen].sum() == pytest.approx(best_by_trying(a, b, gain, n, m), abs=1e-9)


def test_assignment_beats_greedy_nearest() -> None:
    a, b, gain = np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5.0, 4.0, 4.5])
    assert assign(a, b, gain, 2, 2).tolist() == [1, 2]                # greedy would take 5 and then nothing


def test_a_loss_is_never_linked_and_nothing_is_no_error() -> None:
    assert len(assign(np.array([0]), np.array([0]), np.array([-0.1]), 1, 1)) == 0
    assert len(assign(np.zeros(0, int), np.zeros(0, int), np.zeros(0), 3, 0)) == 0


@pytest.mark.parametrize("seed", range(6))
def test_prices_prove_the_assignment_optimal(seed: int) -> None:
    """Dual feasibility and equal value: no other assignment can be better."""
    n, m = 12, 9
    a, b, gain = problem(seed, n, m)
    chosen = assign(a, b, gain, n, m)
    price = prices(a, b, gain, chosen, n, m)
    assert price.min() >= -1e-9
    assert (price[a] + price[n + b] >= gain - 1e-8).all()
    assert price.sum() == pytest.approx(gain[chosen].sum(), abs=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_packing_is_the_best_of_all(seed: int) -> None:
    generator = rng(seed, "test", "pack")
    objects = np.sort(generator.integers(0, 8, (11, 3)), axis=1)
    gain = generator.uniform(0.1, 3, 11)
    best = 0.0
    for size in range(1, 5):
        for some in itertools.combinations(range(11), size):
            used = [o for k in some for o in set(objects[k].tolist())]
            if len(used) == len(set(used)):
                best = max(best, gain[list(some)].sum())
    total, names = pack(objects.tolist(), gain.tolist(), list(range(11)))
    assert total == pytest.approx(best) == pytest.approx(gain[names].sum())


def test_confidence_falls_with_rivals() -> None:
    a, b = np.array([0, 0, 1]), np.array([0, 1, 1])
    alone = confidence(a[:1], b[:1], np.array([4.0]), 2, 2)
    rivalled = confidence(a, b, np.array([4.0, 3.0, -9.0]), 2, 2)
    assert alone[0] == pytest.approx(1 / (1 + np.exp(-4)))
    assert rivalled[0] < alone[0] < 1
    assert ((rivalled > 0) & (rivalled < 1)).all()
