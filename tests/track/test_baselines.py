"""The peers behind one interface."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.bench.track import best
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.track import default_radius_um, link_with
from cellfm_nb.track.baselines import LINKERS, laptrack_events
from cellfm_nb.track.frame_wise import ConstantVelocity, frame_wise
from cellfm_nb.track.link import TRACK_COLUMNS

from .conftest import POSITION, SPACING, link_set


@pytest.mark.parametrize("name", ["ours", *LINKERS])
def test_every_linker_links_the_scene(name: str, scene: tuple) -> None:
    if name.startswith("laptrack"):
        pytest.importorskip("laptrack")
    objects = scene[1]
    tracks = link_with(name, objects, SPACING, 2.0, radius_um=0.8)
    assert tracks.columns.tolist() == TRACK_COLUMNS and len(tracks) == len(objects)
    assert not tracks.duplicated(["track_id", "frame"]).any()
    true = link_set(objects, "true_id")
    assert len(link_set(tracks) & true) / len(true) > 0.9
    assert tracks["gap"].max() == (0 if name == "hungarian" else tracks["gap"].max())


def test_hungarian_is_the_least_total_distance() -> None:
    x = np.array([[0, 0, 0], [0, 0, 1.0], [0, 0, 0.6], [0, 0, 1.6]])
    objects = pd.DataFrame(x, columns=POSITION).assign(frame=[0, 0, 1, 1])
    tracks = link_with("hungarian", objects, SPACING, 1.0, radius_um=2.0)
    assert {(a[3], b[3]) for a, b in link_set(tracks)} == {(0.0, 0.6), (1.0, 1.6)}


def test_default_radius_follows_the_steps(scene: tuple) -> None:
    objects = scene[1]
    larger = objects.assign(**{c: 3 * objects[c] for c in POSITION})
    assert default_radius_um(larger) == pytest.approx(3 * default_radius_um(objects))


def test_a_peer_that_gives_up_says_so() -> None:
    x = rng(1, "test", "crowd").uniform(0, 3, (400, 3))
    objects = pd.DataFrame(x, columns=POSITION).assign(frame=np.repeat([0, 1], 200))
    with pytest.raises(InputError, match="gives up"):
        link_with("trackpy", objects, SPACING, 1.0, radius_um=2.0)
    assert len(link_with("ours", objects, SPACING, 1.0)) == 400


def test_unknown_linker_is_refused(scene: tuple) -> None:
    with pytest.raises(InputError, match="Unknown linker"):
        link_with("by eye", scene[1], SPACING, 2.0)


def test_the_kalman_filter_is_filterpys() -> None:
    filterpy = pytest.importorskip("filterpy.kalman")
    generator, ours = rng(2, "test", "kalman"), ConstantVelocity(0.9)
    x = np.cumsum(generator.normal(0.2, 0.1, (12, 1, 3)), axis=0)
    theirs = filterpy.KalmanFilter(dim_x=2, dim_z=1)
    theirs.x, theirs.P, theirs.R, theirs.H = np.array([[x[0, 0, 0]], [0.0]]), np.diag([0.1, 1]) * 0.09, 0.009, \
        np.array([[1.0, 0.0]])
    ours.start(x[0])
    seen = [0, 1, 2, 4, 5, 8, 9, 11]                                  # gaps of one and two frames
    for before, t in zip(seen, seen[1:], strict=False):
        g = t - before
        theirs.F = np.array([[1.0, g], [0.0, 1.0]])
        theirs.Q = 0.1 * 0.09 * np.array([[g**3 / 3, g**2 / 2], [g**2 / 2, g]])
        theirs.predict()
        assert ours.predict(np.array([[g]]))[0, 0] == pytest.approx(theirs.x[0, 0])
        theirs.update(x[t, 0, 0])
        ours.correct(np.array([0]), x[t])
        assert (ours.x[0, 0], ours.v[0, 0]) == pytest.approx((theirs.x[0, 0], theirs.x[1, 0]))
        assert np.allclose(ours.p[0], theirs.P)


def test_motion_finds_what_runs_away_and_memory_what_blinks() -> None:
    """A straight runner leaves the radius of its last place; a constant-velocity filter expects it (control: none)."""
    path = {t: (1.0, 1.0, 0.2 * t * (1 + 0.05 * t)) for t in range(14) if t not in (7, 8)}
    objects = pd.DataFrame([(t, *p) for t, p in path.items()], columns=["frame", *POSITION])
    assert len(set(frame_wise(objects, 0.36, 3, motion=True))) == 1
    assert len(set(frame_wise(objects, 0.36, 3, motion=False))) > 1
    assert len(set(frame_wise(objects, 0.36, 1, motion=True))) > 1


def test_features_of_the_seeds_cost_decide_where_space_cannot() -> None:
    two = ((1.0, 1, 50.0), (1.01, -1, 500.0))
    rows = [(t, 1.0, 1.0, x + 0.02 * (t % 2) * s, m) for t in range(6) for x, s, m in two]
    objects = pd.DataFrame(rows, columns=["frame", *POSITION, "mass"])
    ids = frame_wise(objects, 0.5, 0, motion=True, weights=(1.0, 0.1, 1.0))
    blind = frame_wise(objects, 0.5, 0, motion=True, weights=(1.0, 0.0, 1.0))
    assert len(set(zip(ids, objects["mass"], strict=True))) == 2 < len(set(zip(blind, objects["mass"], strict=True)))


def test_laptracks_events_come_as_a_table(scene: tuple) -> None:
    pytest.importorskip("laptrack")
    objects = scene[1].sort_values(["frame", "x_um", "y_um", "z_um"]).reset_index(drop=True)
    events = laptrack_events(objects, 0.8, 3)
    assert {"split", "merge"} >= set(events["kind"]) and len(events) > 0
    counts = events["parents"].str.count(";").add(1), events["children"].str.count(";").add(1)
    assert ((counts[0] == 1) == (events["kind"] == "split")).all() and np.isfinite(events[POSITION]).all().all()


def test_a_peer_that_gives_up_at_every_radius_has_no_metric() -> None:
    def gives_up(radius_um: float) -> None:
        raise InputError("Too dense.")

    row = best(gives_up, dict, "alpha")
    assert np.isnan(row["alpha"]) and np.isnan(row["rmse_um"])
