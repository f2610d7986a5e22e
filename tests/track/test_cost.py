"""Scales and gains: learnt from the movie, and moving the links the way they should."""

from __future__ import annotations

import numpy as np
import pytest

from cellfm_nb.seeds import rng
from cellfm_nb.track.assign import assign
from cellfm_nb.track.chains import Chains
from cellfm_nb.track.cost import common_slope, link_gain, mutual_neighbours, start_end_logs

from .conftest import POSITION, table
from .test_link import brownian


def chains_of(n: int = 40, frames: int = 12, step: float = 0.1) -> Chains:
    objects = table(brownian(n, frames, seed=20, step=step)).sort_values("frame")
    x = objects[POSITION].to_numpy().T
    none = np.zeros((0, len(objects)))
    return Chains(x, objects["frame"].to_numpy(), none, none, np.full(3, 0.05), 2)


def gains(chains: Chains, **changes: object) -> tuple:
    s = chains.scales.with_(**changes)
    starts, ends = start_end_logs(chains.frame, chains.first, chains.last, s)
    tails, heads = chains.objects(5, 5), chains.objects(6, 6)
    a, b = (k.ravel() for k in np.indices((len(tails), len(heads))))
    i, j = tails[a], heads[b]
    dx = chains.x[:, j] - chains.x[:, i]
    gain = link_gain(chains.past, chains.future, i, j, dx, np.ones(len(i), int), starts, ends, s)
    return a, b, gain, len(tails), len(heads)


def test_rarer_ends_and_births_make_more_links() -> None:
    chains = chains_of(step=0.8)                                     # crowded: some links are in doubt
    for fixed, name, values in (("birth_per_um3", "end", (0.99, 0.5, 0.05, 1e-3)),
                                ("end", "birth_per_um3", (1e3, 1e1, 1e-1, 1e-6))):
        other = {"birth_per_um3": 0.1, "end": 0.5}[fixed]
        counts = [len(assign(*gains(chains, **{name: v, fixed: other}))) for v in values]
        assert counts == sorted(counts) and counts[-1] > counts[0]


def test_gain_falls_with_distance() -> None:
    chains = chains_of()
    a, b, gain, n, m = gains(chains)
    far = np.linalg.norm(chains.x[:, chains.objects(6, 6)[b]] - chains.x[:, chains.objects(5, 5)[a]], axis=0)
    order = np.argsort(far)
    assert np.corrcoef(far, gain)[0, 1] < -0.8
    assert gain[order[-1]] < 0 < gain[order[0]]


def test_scales_come_from_the_movie() -> None:
    chains = chains_of(60, 20)
    chains.run(3, with_events=True)
    assert np.sqrt(chains.scales.step_um2.sum() * chains.scales.stationary[0]
                   + (chains.scales.velocity_um2 + chains.scales.step_um2).sum() * chains.scales.stationary[1]) == (
        pytest.approx(0.1 * np.sqrt(3), rel=0.1))
    assert chains.scales.end < 0.01
    assert chains.scales.switch.sum(1) == pytest.approx([1, 1]) and chains.scales.gap.sum() == pytest.approx(1)


def test_mutual_neighbours_are_mutual_and_consecutive() -> None:
    x, frame = np.array([[0.0], [1.0], [0.1], [5.0], [0.2]])[:, [0, 0, 0]], np.array([0, 0, 1, 1, 3])
    i, j = mutual_neighbours(x, frame)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 2)]


def test_common_slope_ignores_levels() -> None:
    generator = rng(21, "test", "slope")
    group, t = np.repeat(np.arange(5), 8), np.tile(np.arange(8.0), 5)
    y = generator.normal(0, 10, 5)[group] - 0.3 * t
    assert common_slope(group, t, y, np.ones(40)) == pytest.approx(-0.3)
