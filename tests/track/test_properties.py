"""Properties any linker must have (K1-K7 of the references and the contract's list), on data made to break them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.track import link_objects, link_with
from cellfm_nb.track.assign import assign, second
from cellfm_nb.track.baselines import LINKERS
from cellfm_nb.track.chains import Chains
from cellfm_nb.track.cost import link_gain
from cellfm_nb.track.motion import Filter

from .conftest import POSITION, SPACING, link_set, table
from .test_cost import chains_of
from .test_link import brownian
from .test_motion import scales


@pytest.mark.parametrize("seed", range(6))
def test_ties_and_large_groups_are_assigned_once(seed: int) -> None:  # K1
    """Equal gains everywhere: no row or column twice, and as many pairs as there can be."""
    generator = rng(seed, "test", "ties")
    a, b = np.nonzero(generator.uniform(size=(40, 30)) < 0.3)
    gain = generator.integers(1, 3, len(a)).astype(float)
    chosen = assign(a, b, gain, 40, 30)
    assert len(np.unique(a[chosen])) == len(np.unique(b[chosen])) == len(chosen) >= 25
    dense = np.zeros((40, 30))
    dense[a, b] = gain
    assert gain[chosen].sum() == pytest.approx(dense[linear_sum_assignment(dense, maximize=True)].sum())


def test_two_heads_as_good_for_one_tail_are_not_both_taken() -> None:
    assert len(assign(np.array([0, 0]), np.array([0, 1]), np.array([2.0, 2.0]), 1, 2)) == 1
    assert len(assign(np.array([0, 1]), np.array([0, 0]), np.array([2.0, 2.0]), 2, 1)) == 1


def test_links_and_events_never_share_an_end(dense_scene: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every solve: links go both ways, and no object is linked and in an event on the same side."""
    solve, seen = Chains.solve, []

    def watched(self: Chains, pairs: np.ndarray, with_events: bool) -> None:
        solve(self, pairs, with_events)
        i = np.flatnonzero(self.succ >= 0)
        assert (self.pred[self.succ[i]] == i).all() and (self.pred >= 0).sum() == len(i)
        parents, children = ([k for e in self.events for k in side(e)]
                             for side in (lambda e: e.parents, lambda e: e.children))
        assert len(set(parents)) == len(parents) and len(set(children)) == len(children)
        assert (self.succ[parents] < 0).all() and (self.pred[children] < 0).all()
        seen.append(len(self.events))

    monkeypatch.setattr(Chains, "solve", watched)
    link_objects(dense_scene[1], SPACING, 2.0)
    link_objects(dense_scene[1], SPACING, 2.0, identity="none")
    assert max(seen) > 10


def test_the_second_best_of_a_tie_is_the_tie() -> None:
    group, value = np.array([0, 0, 0, 1, 2, 2]), np.array([3.0, 3.0, 1.0, 5.0, 2.0, 4.0])
    assert second(group, value, 3).tolist() == [3, 3, 3, 0, 4, 2]


def test_voxels_with_spacing_are_the_same_as_micrometres(scene: tuple) -> None:
    """The same movie told in voxels of one unit: the same links, the scales told in voxels."""
    objects = scene[1].drop(columns=["z", "y", "x"])
    voxels = objects.assign(**{c: objects[c] / s for c, s in zip(POSITION, SPACING, strict=True)})
    um = link_objects(objects, SPACING, 2.0)
    vx = link_objects(voxels, (1.0, 1.0, 1.0), 2.0)
    back = vx.tracks.assign(**{c: vx.tracks[c] * s for c, s in zip(POSITION, SPACING, strict=True)})
    a, b = link_set(um.tracks), link_set(back)
    assert len(a & b) / len(a | b) > 0.995                            # neighbours are ranked in a unit of their own
    assert np.allclose(um.scales.step_um2, vx.scales.step_um2 * np.square(SPACING), rtol=0.02)


@pytest.mark.parametrize("name", ["ours", *LINKERS])
def test_any_table_is_linked_or_refused_in_one_sentence(name: str) -> None:
    """Unsorted rows, empty frames, one object, two at one place; nan is refused."""
    if name.startswith("laptrack"):
        pytest.importorskip("laptrack")
    objects = table({k: {t: p for t, p in path.items() if t not in (4, 5)}
                     for k, path in brownian(5, 12, seed=30, size=20.0).items()})
    mixed = objects.sample(frac=1, random_state=1)
    tracks = link_with(name, mixed, SPACING, 2.0, radius_um=1.0)
    assert link_set(tracks) >= {p for p in link_set(objects, "true_id") if p[1][0] - p[0][0] == 1}
    for few in (objects[objects["true_id"] == 0], pd.concat([objects, objects[objects["true_id"] == 1]])):
        got = link_with(name, few, SPACING, 2.0, radius_um=1.0)
        assert len(got) == len(few) and not got.duplicated(["track_id", "frame"]).any()
    with pytest.raises(InputError, match="not finite"):
        link_with(name, objects.assign(x_um=np.nan), SPACING, 2.0)


def pair(**changes: np.ndarray) -> tuple[Filter, Filter]:
    base = dict(p=np.array([0.5]), v=np.zeros((1, 1)), s=np.full((1, 1), 0.05), m=np.zeros((1, 1)),
                w=np.full((1, 1), 0.02))
    return Filter(**base), Filter(**(base | changes))


def gain_of(future: Filter, past: Filter, dx: float = 0.1, **more: object) -> float:
    zero, s = np.zeros(1, int), scales(**more)
    return float(link_gain(past, future, zero, zero, np.array([[dx]]), np.ones(1, int), np.log([1e-3]),
                           np.log([0.01]), s)[0])


def test_each_cost_pulls_one_way_only() -> None:  # K7: the further, the less alike, the longer unseen: the less gain
    past, future = pair()
    by_distance = [gain_of(future, past, dx) for dx in (0.0, 0.3, 0.8, 2.0, 5.0)]
    by_light = [gain_of(pair(m=np.full((1, 1), d))[1], past) for d in (0.0, 0.3, 0.8, 1.5)]
    by_heading = [gain_of(pair(v=np.full((1, 1), v), p=np.array([0.99]))[1], past, dx=0.0)
                  for v in (0.0, -0.3, -0.6, -1.0)]
    for gains in (by_distance, by_light, by_heading):
        assert np.all(np.diff(gains) < 0), gains
    misleading = [by_light[0] - gain_of(pair(m=np.full((1, 1), 1.5))[1], past, outlier=o) for o in (1e-9, 0.05, 0.3)]
    assert misleading[0] > misleading[1] > misleading[2] > 0          # a cue that often misleads says less


def test_a_link_over_a_longer_gap_gains_less() -> None:
    chains = chains_of()
    s = chains.scales
    assert np.all(np.diff(np.log(s.gap)) < 0) and s.gap.sum() == pytest.approx(1)
    starts, ends = chains.log_start, chains.log_end
    i = chains.objects(4, 4)[:1]
    gains = [float(link_gain(chains.past, chains.future, i, chains.objects(4 + g, 4 + g)[:1], np.full((3, 1), 0.05),
                             np.array([g]), starts, ends, s)[0]) for g in (1, 2, 3)]
    assert gains[0] > gains[1] > gains[2]


def test_filter_steps_have_the_moments_of_the_mixture() -> None:  # K5
    """The velocity before a step mixes "was directed" and "has just begun to be": mean and variance by sampling."""
    s = scales(step_um2=np.full(1, 1e6))                              # the step itself then tells nothing
    f = Filter(np.array([0.4, 0.0]), np.array([[0.7, 0.0]]), np.array([[0.05, 0.25]]), np.zeros((1, 2)),
               np.ones((1, 2)))
    f.step(np.array([0]), np.array([1]), np.array([[0.0]]), np.ones(1, int), np.zeros((1, 2)), np.ones((1, 2)), s)
    draw = rng(5, "test", "mixture")
    before = draw.uniform(size=400_000) < 0.4
    directed = draw.uniform(size=len(before)) < np.where(before, 0.7, 0.1)
    v = np.where(before, draw.normal(0.7, np.sqrt(0.05), len(before)), draw.normal(0, 0.5, len(before)))[directed]
    assert f.v[0, 1] == pytest.approx(v.mean(), abs=0.01)
    assert f.s[0, 1] == pytest.approx(v.var() + 0.01 * 0.25, abs=0.01)
    assert f.p[1] == pytest.approx(directed.mean(), abs=0.01)


def test_clutter_is_not_believed() -> None:
    """Points with nothing behind them get linked now and then, but not with confidence (control: real tracks)."""
    generator = rng(31, "test", "clutter")
    noise = pd.DataFrame(generator.uniform(0, 8, (600, 3)), columns=POSITION).assign(frame=np.repeat(np.arange(20), 30))
    believed = link_objects(noise, SPACING, 2.0).tracks["score"]
    real = link_objects(table(brownian(30, 20, seed=32)), SPACING, 2.0).tracks["score"]
    assert (believed.dropna() > 0.9).mean() < 0.35 < 0.95 < (real.dropna() > 0.9).mean()
