"""Normalised cuts against brute force, energies that never rise (G5), necks against balls."""

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.segment import cuts


def random_graph(seed, n):
    draw = rng(seed, "graph")
    w = draw.random((n, n)) * (draw.random((n, n)) < 0.5)
    return w + w.T, draw.uniform(0.5, 2, n)


def brute_force(weights, size):
    """Return the least normalised cut by enumeration, term by term."""
    n, best = len(weights), np.inf
    for bits in range(1, 2**n - 1):
        a = [k for k in range(n) if bits >> k & 1]
        b = [k for k in range(n) if not bits >> k & 1]
        cut = sum(weights[i, j] for i in a for j in b)
        best = min(best, cut / sum(size[i] for i in a) + cut / sum(size[j] for j in b))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_cut_is_exact_up_to_twelve_nodes(seed):                                       # G5
    weights, size = random_graph(seed, 4 + seed)
    for s in (None, size):
        given = weights.sum(1) - np.diag(weights) if s is None else s
        np.fill_diagonal(weights, 0)
        side, energy = cuts.bipartition(weights, s)
        assert energy == pytest.approx(brute_force(weights, np.maximum(given, 1e-12)))
        assert energy == pytest.approx(float(cuts.cut_energy(weights, side, s)))


@pytest.mark.parametrize("seed", range(8))
def test_refinement_never_raises_the_energy_and_comes_close_to_the_exact_cut(seed):   # G5
    weights, size = random_graph(seed, 12)
    np.fill_diagonal(weights, 0)
    start = cuts.spectral_side(weights, size)
    random_start = rng(seed, "start").random(12) < 0.5
    random_start[:2] = True, False
    for side in (start, random_start):
        after, energy = cuts.refine(weights, side, size)
        assert energy <= float(cuts.cut_energy(weights, side, size)) + 1e-12
        assert energy == pytest.approx(float(cuts.cut_energy(weights, after, size)))
    assert cuts.refine(weights, start, size)[1] <= 1.3 * cuts.bipartition(weights, size)[1]


def test_two_cliques_of_twenty_are_parted_at_their_bridge():
    weights = np.kron(np.eye(2), np.ones((20, 20)))
    weights[0, 39] = weights[39, 0] = 0.5
    order = rng(1, "order").permutation(40)
    side, _ = cuts.bipartition(weights[np.ix_(order, order)])
    assert len({bool(side[order.tolist().index(k)]) for k in range(20)}) == 1 and side.sum() == 20


def test_relative_energy_is_that_of_a_ball_a_spheroid_and_a_neck():
    r = 2.0
    half = 2 / 3 * np.pi * r**3
    assert cuts.relative_energy(np.pi * r**2, half, half) == pytest.approx(1)
    assert cuts.relative_energy(np.pi * r**2, 2 * half, 2 * half) == pytest.approx(2 ** (-2 / 3))
    cap = np.pi * (0.4 * r) ** 2 * (3 * r - 0.4 * r) / 3
    part = 2 * half - cap                                    # two balls, centres 1.2 r apart
    assert cuts.relative_energy(np.pi * (0.8 * r) ** 2, part, part) == pytest.approx(0.433, abs=0.002)


def test_merging_follows_contacts_whatever_the_names():
    rows = np.arange(9)
    volume, contact = np.full(10, 1.0), np.array([1, 1, 1, 0.05, 1, 1, 1, 1, 1.0])
    name = cuts.merge_by_cuts(rows, rows + 1, contact, volume, 0.2)
    assert len(set(name[:4])) == 1 and len(set(name[4:])) == 1 and name[0] != name[9]
    order = rng(2, "names").permutation(10)
    again = cuts.merge_by_cuts(order[rows], order[rows + 1], contact, volume, 0.2)[order]
    assert (again[:, None] == again).tolist() == (name[:, None] == name).tolist()


def test_twenty_thousand_regions_merge_in_seconds():
    n = 20_000
    i = np.arange(n - 1)
    name = cuts.merge_by_cuts(i, i + 1, np.where(i % 2 == 0, 1.0, 0.01), np.ones(n), 0.2)
    np.testing.assert_array_equal(name, np.arange(n) // 2 * 2)


def test_bad_graph_is_said():
    with pytest.raises(InputError, match="weights"):
        cuts.bipartition(np.array([[0, 1], [2, 0]]))
