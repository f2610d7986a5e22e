"""The Particle Tracking Challenge's measures on toys worked out by hand, and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.particles import score_particles
from cellfm_nb.score.tracks import mean_and_interval
from cellfm_nb.seeds import rng

from .test_tracks import span, table

TWO = {1: span(0, 10, 0.0), 2: span(0, 10, 50.0)}


def test_truth_against_itself_is_perfect() -> None:
    got = score_particles(table(TWO), table(TWO), 5.0)
    assert (got.alpha, got.beta, got.jsc, got.jsc_theta, got.rmse_um) == (1, 1, 1, 1, 0)


def test_a_track_half_found_and_a_false_one() -> None:
    """Gate 5. Track 1 found 1 um off for 6 of its 10 times; track 2 not at all; one false track of 4 positions."""
    got = score_particles(table(TWO), table({7: span(0, 6, 1.0), 8: span(2, 6, 90.0)}), 5.0)
    # d0 = 20 x 5 = 100; d = 6 x 1 + 4 x 5 + 10 x 5 = 76
    assert got.alpha == pytest.approx(1 - 76 / 100)
    assert got.beta == pytest.approx((100 - 76) / (100 + 4 * 5))
    assert got.jsc == pytest.approx(6 / (6 + 14 + 4)) and got.jsc_theta == pytest.approx(1 / (1 + 1 + 1))
    assert got.rmse_um == pytest.approx(1.0)


def test_positions_of_a_partner_beyond_its_track_cost() -> None:
    """The found track goes on 5 frames after the true one has ended: each counts the gate, and a false position."""
    got = score_particles(table({1: span(0, 10, 0.0)}), table({1: span(0, 15, 0.0)}), 5.0)
    assert got.alpha == got.beta == pytest.approx(1 - 25 / 50)
    assert got.jsc == pytest.approx(10 / 15) and got.jsc_theta == 1


def test_a_partner_that_costs_more_than_it_saves_is_none() -> None:
    got = score_particles(table({1: span(0, 3, 0.0)}), table({1: {t: 4.0 if t < 3 else 0.0 for t in range(30)}}), 5.0)
    assert got.alpha == got.beta == got.jsc == got.jsc_theta == 0 and np.isnan(got.rmse_um)


def test_at_the_gate_is_missing() -> None:
    assert score_particles(table(TWO), table({1: span(0, 10, 5.0)}), 5.0).alpha == 0
    assert score_particles(table(TWO), table({1: span(0, 10, 4.9)}), 5.0).jsc == pytest.approx(10 / 20)


@pytest.mark.parametrize("seed", range(5))
def test_the_pairing_is_the_best_of_all(seed: int) -> None:
    generator, gate = rng(seed, "test", "particles"), 2.0
    truth, found = ({k: {t: float(generator.uniform(0, 4)) for t in range(6) if generator.uniform() < 0.7}
                     for k in range(4)} for _ in range(2))

    def cost(a: dict, b: dict) -> float:
        times = set(a) | set(b)
        return sum(min(abs(a[t] - b[t]), gate) if t in a and t in b else gate for t in times)

    alone = [gate * len(a) for a in truth.values()]
    least = min(sum(cost(a, found[p[k]]) if p[k] < 4 else alone[k] for k, a in enumerate(truth.values()))
                for p in itertools.permutations(range(8), 4))
    got = score_particles(table(truth), table(found), gate)
    assert got.alpha == pytest.approx(1 - least / sum(alone))


def test_nothing_found_and_bad_gate() -> None:
    got = score_particles(table(TWO), table({}), 5.0)
    assert got.alpha == got.beta == got.jsc == got.jsc_theta == 0
    with pytest.raises(InputError, match="gate"):
        score_particles(table(TWO), table(TWO), 0.0)


def test_interval_over_movies() -> None:
    mean, low, high = mean_and_interval([1.0, 2.0, 3.0, np.nan])
    assert mean == 2 and low == pytest.approx(4 - high)
    assert high - mean == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert np.isnan(mean_and_interval([1.0])[1])
