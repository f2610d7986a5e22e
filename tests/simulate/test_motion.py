"""The tables are exact: motion as set, mass conserved, walls that reflect, events where the tracks say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import SceneConfig, simulate_tracks
from cellfm_nb.simulate.cell import Cell

UM = ["z_um", "y_um", "x_um"]


def steps(positions):
    """Displacements between consecutive frames of each track, um."""
    moved = positions.sort_values(["track_id", "frame"]).groupby("track_id")[UM].diff().dropna()
    return moved.to_numpy()


@pytest.fixture(scope="module")
def truth():
    return simulate_tracks(SceneConfig(), 0)


def test_columns_and_rows(truth):
    assert list(truth.positions) == ["track_id", "frame", "t_s", "z", "y", "x", *UM, "mass", "radius_um", "visible"]
    assert list(truth.tracks) == ["track_id", "start", "end", "parent_id"]
    assert list(truth.events) == ["event_id", "kind", "frame", *UM, "parents", "children"]
    # one row a frame of life, dark frames included
    counts = truth.positions.groupby("track_id").size()
    assert (counts == (truth.tracks["end"] - truth.tracks["start"] + 1).to_numpy()).all()
    assert np.allclose(truth.positions[["z", "y", "x"]] * SceneConfig().spacing_um, truth.positions[UM])
    shown = truth.positions[truth.positions["visible"]].groupby("frame").size()
    assert shown.min() >= 40 and shown.max() <= 80


def test_equal_seeds_give_equal_tables_and_others_do_not(truth):
    again, other = simulate_tracks(SceneConfig(), 0), simulate_tracks(SceneConfig(), 1)
    pd.testing.assert_frame_equal(truth.positions, again.positions)
    assert not np.allclose(truth.positions["z"].to_numpy()[:40], other.positions["z"].to_numpy()[:40])


@pytest.mark.parametrize("seed", range(5))
def test_the_default_movie_has_events_to_score(seed):
    kinds = simulate_tracks(SceneConfig(), seed).events["kind"].value_counts()
    assert kinds["split"] >= 5 and kinds["merge"] >= 3


@pytest.mark.parametrize("seed", range(3))
def test_events_fit_the_tracks_and_conserve_mass(seed):
    config = SceneConfig()
    truth = simulate_tracks(config, seed)
    tracks = truth.tracks.set_index("track_id")
    rows = truth.positions.set_index(["track_id", "frame"])
    fade = np.exp(-config.dt_s / config.bleach_s)
    for event in truth.events.itertuples():
        parents, children = ([int(i) for i in ids.split(";")] for ids in (event.parents, event.children))
        assert (len(parents), len(children)) == ((1, 2) if event.kind == "split" else (2, 1))
        assert all(tracks.loc[p, "end"] == event.frame - 1 for p in parents)
        assert all(tracks.loc[c, "start"] == event.frame for c in children)
        assert all(tracks.loc[c, "parent_id"] in parents for c in children)
        before = sum(rows.loc[(p, event.frame - 1), "mass"] for p in parents)
        after = sum(rows.loc[(c, event.frame), "mass"] for c in children)
        assert after == pytest.approx(before * fade, rel=1e-12)
        if event.kind == "split":
            gap = rows.loc[(children[0], event.frame), UM] - rows.loc[(children[1], event.frame), UM]
            assert np.linalg.norm(gap.astype(float)) < 3 * config.contact_um
    # nothing is born or dies but by an event
    born = truth.tracks.query("start > 0")["track_id"]
    named = ";".join(truth.events["children"]).split(";")
    assert sorted(map(str, born)) == sorted(named)


def test_children_move_apart(truth):
    rows = truth.positions.set_index(["track_id", "frame"])[UM]
    gaps = {0: [], 3: []}
    for event in truth.events.query("kind == 'split'").itertuples():
        one, two = map(int, event.children.split(";"))
        for lag in gaps:
            at = event.frame + lag
            if (one, at) in rows.index and (two, at) in rows.index:
                gaps[lag].append(np.linalg.norm(rows.loc[(one, at)] - rows.loc[(two, at)]))
    assert np.mean(gaps[3]) > np.mean(gaps[0]) + 0.3


def test_diffusion_is_what_was_set():
    # a field so wide that walls hardly matter
    config = SceneConfig(shape=(40, 400, 400, 400), spacing_um=(0.1, 0.1, 0.1), n_puncta=400, envelope="box",
                         directed_share=0, split_rate_s=0, merge_rate_s=0, diffusion_um2_s=0.01)
    squared = steps(simulate_tracks(config, 3).positions) ** 2
    measured = squared.mean(0) / (2 * config.dt_s)
    assert np.abs(measured / 0.01 - 1).max() < 0.05


WIDE = {"shape": (60, 300, 300, 300), "spacing_um": (0.1, 0.1, 0.1), "n_puncta": 300, "envelope": "box",
        "directed_share": 0, "split_rate_s": 0, "merge_rate_s": 0}


def spread(positions):
    """Mean squared displacement per axis between the first frame and every other, um^2."""
    table = positions.pivot(index="frame", columns="track_id", values=UM)
    return ((table - table.iloc[0]) ** 2).mean(axis=1).to_numpy()


def test_a_spring_confines_as_its_theory_says():
    config = SceneConfig(**WIDE, diffusion_um2_s=0.005, confined_share=1, confinement_um=0.15)
    measured, lag = spread(simulate_tracks(config, 3).positions), np.arange(60) * config.dt_s
    expected = 2 * 0.15**2 * (1 - np.exp(-config.diffusion_um2_s * lag / 0.15**2))  # Ornstein-Uhlenbeck
    assert np.abs(measured[1:] / expected[1:] - 1).max() < 0.2
    assert measured[20:].mean() == pytest.approx(expected[20:].mean(), rel=0.03)
    free = spread(simulate_tracks(dataclasses.replace(config, confined_share=0), 3).positions)
    assert free[-1] > 5 * measured[-1]  # the negative control


def test_a_ball_holds_a_punctum_uniformly():
    config = SceneConfig(**WIDE | {"n_puncta": 150}, diffusion_um2_s=0.02, confined_share=1, confinement="walls",
                         confinement_um=0.3)
    truth = simulate_tracks(config, 3)
    table = truth.positions.pivot(index="frame", columns="track_id", values=UM)
    widest = np.sqrt(sum((table[a].max() - table[a].min()) ** 2 for a in UM))
    assert widest.max() < 2 * 0.3 * np.sqrt(3) and np.ptp(table["x_um"].to_numpy(), axis=0).max() <= 2 * 0.3
    # two independent places in a ball of radius R differ by 2 R^2 / 5 per axis
    assert spread(truth.positions)[15:].mean() == pytest.approx(2 * 0.3**2 / 5, rel=0.05)


def test_only_the_share_asked_for_is_confined():
    config = SceneConfig(**WIDE | {"directed_share": 0.5}, diffusion_um2_s=0.005, confined_share=0.4,
                         confinement_um=0.1, speed_um_s=0.3)
    table = simulate_tracks(config, 3).positions.pivot(index="frame", columns="track_id", values="x_um")
    assert (table.std() < 0.2).mean() == pytest.approx(0.4, abs=0.08)


def test_puncta_appear_and_vanish_at_their_rates():
    config = SceneConfig(**WIDE, diffusion_um2_s=0.005, appear_rate_s=0.004, vanish_rate_s=0.006)
    truth, last = simulate_tracks(config, 5), 59
    named = {int(i) for column in ("parents", "children") for ids in truth.events[column] for i in ids.split(";")}
    born = truth.tracks.query("start > 0 and parent_id < 0")
    gone = truth.tracks[(truth.tracks["end"] < last) & ~truth.tracks["track_id"].isin(named)]
    seconds = (len(truth.positions) - len(truth.positions.query("frame == @last"))) * config.dt_s
    for count, expected in ((len(born), 0.004 * 300 * last * config.dt_s), (len(gone), 0.006 * seconds)):
        assert abs(count - expected) < 3 * np.sqrt(expected)
    counts = truth.positions.groupby("track_id").size()
    assert (counts == (truth.tracks["end"] - truth.tracks["start"] + 1).to_numpy()).all()
    assert born["start"].between(1, last).all() and (gone["end"] >= gone["start"]).all()


def test_vanishing_partners_and_an_empty_field_are_survived():
    config = SceneConfig(shape=(60, 24, 64, 64), n_puncta=30, vanish_rate_s=0.05, merge_rate_s=0.05)
    truth = simulate_tracks(config, 1)
    assert truth.positions["frame"].max() < 59 and len(truth.events)


def test_splits_and_merges_come_at_their_rates():
    config = SceneConfig(shape=(60, 40, 144, 144), n_puncta=80, split_rate_s=0.004, merge_rate_s=0)
    truth = simulate_tracks(config, 2)
    age = truth.positions["frame"] - truth.positions["track_id"].map(truth.tracks.set_index("track_id")["start"])
    able = ((age >= 3) | (truth.positions["track_id"] < 80)).sum() * config.dt_s
    assert len(truth.events) == pytest.approx(0.004 * able, rel=0.05)


def test_switching_something_on_leaves_the_other_random_numbers(truth):
    drifting = simulate_tracks(SceneConfig(drift_um_s=(0.0, 0.01, -0.02)), 0)
    moved = drifting.positions[UM] - truth.positions[UM]
    assert np.allclose(moved, truth.positions["t_s"].to_numpy()[:, None] * [0, 0.01, -0.02])
    assert np.allclose(drifting.events[UM] - truth.events[UM],
                       2.0 * truth.events["frame"].to_numpy()[:, None] * [0, 0.01, -0.02])
    born = simulate_tracks(SceneConfig(appear_rate_s=0.001, split_rate_s=0, merge_rate_s=0), 0).positions
    same = simulate_tracks(SceneConfig(split_rate_s=0, merge_rate_s=0), 0).positions
    first = born.query("frame == 0")
    assert np.array_equal(first[UM], same.query("frame == 0")[UM])


def test_directed_runs_are_as_fast_and_as_common_as_set():
    config = SceneConfig(shape=(40, 400, 400, 400), spacing_um=(0.1, 0.1, 0.1), n_puncta=400, envelope="box",
                         directed_share=0.4, split_rate_s=0, merge_rate_s=0, diffusion_um2_s=1e-6, speed_um_s=0.2)
    length = np.linalg.norm(steps(simulate_tracks(config, 3).positions), axis=1)
    running = length > 0.2
    assert running.mean() == pytest.approx(0.4, abs=0.05)
    assert np.median(length[running]) == pytest.approx(0.2 * config.dt_s, rel=0.02)


@pytest.mark.parametrize("envelope", ["cell", "box"])
def test_walls_reflect_and_nothing_wraps_round(envelope):
    config = SceneConfig(shape=(30, 16, 40, 40), n_puncta=80, envelope=envelope, diffusion_um2_s=0.05, merge_rate_s=0,
                         split_rate_s=0, directed_share=0)
    truth = simulate_tracks(config, 2)
    cell = Cell.make(config.size_um, envelope, 2)
    corner = truth.positions[UM].to_numpy() + np.array(config.spacing_um) / 2
    assert (cell.depth_um(corner) >= 0).all()
    longest = 5.5 * np.sqrt(2 * config.diffusion_um2_s * config.dt_s)
    assert np.linalg.norm(steps(truth.positions), axis=1).max() < longest
    # the negative control: with periodic walls true links jump across the field
    walk = np.cumsum(rng(2, "test", "walk").normal(0, 0.447, (400, 3)), 0) % np.array(config.size_um)
    assert np.linalg.norm(np.diff(walk, axis=0), axis=1).max() > longest


def test_reflection_keeps_a_uniform_cell_uniform():
    cell, draw = Cell.make((6, 6, 6), "cell", 1), rng(0, "test", "uniform")
    start = cell.sample(6000, draw)
    points = start
    for _ in range(20):
        points = cell.reflect(points, points + 0.2 * draw.standard_normal(points.shape))
    edges = np.quantile(cell.depth_um(start), [0.25, 0.5, 0.75])
    share = np.bincount(np.digitize(cell.depth_um(points), edges), minlength=4) / len(points)
    assert np.abs(share - 0.25).max() < 0.03


def test_bleaching_and_blinking():
    config = SceneConfig(split_rate_s=0, merge_rate_s=0, blink_probability=0.1, n_puncta=200)
    positions = simulate_tracks(config, 0).positions
    one = positions.query("track_id == 7")
    assert one["mass"].iloc[-1] / one["mass"].iloc[0] == pytest.approx(np.exp(-19 * 2 / config.bleach_s))
    assert positions.query("frame == 0")["visible"].all()
    dark = (~positions.sort_values(["track_id", "frame"])["visible"]).to_numpy().reshape(200, -1)
    runs = [len(run) for row in dark for run in "".join("x" if d else " " for d in row).split()]
    assert 0.08 < dark[:, 1:].mean() < 0.25 and set(runs) >= {1, 2, 3}
    assert dark[:, 1].mean() == pytest.approx(0.1, abs=3 * np.sqrt(0.1 * 0.9 / 200))  # of going dark, per frame


def test_density_decides_the_number():
    config = dataclasses.replace(SceneConfig(), density_per_um3=0.05)
    volume = Cell.make(config.size_um, "cell", 0).volume_um3()
    assert len(simulate_tracks(config, 0).positions.query("frame == 0")) == round(0.05 * volume)


@pytest.mark.parametrize("change", [
    {"shape": (0, 40, 144, 144)}, {"shape": (20, 144, 144)}, {"shape": (2.5, 40, 144, 144)},
    {"spacing_um": (0.25, -0.1, 0.1)}, {"spacing_um": (0.25, 0.1)}, {"dt_s": 0}, {"snr": -1}, {"snr": float("nan")},
    {"n_puncta": 0}, {"diffusion_um2_s": -1}, {"directed_share": 1}, {"blink_probability": 1.5},
    {"confined_share": 2}, {"confinement": "rope"}, {"confinement_um": 0}, {"drift_um_s": (0, 1)},
    {"drift_um_s": (0, 1, float("nan"))}, {"vanish_rate_s": -1}, {"scan_angle_deg": 0}, {"scan_direction": 2},
    {"radius_um": (0.2, 0.1)}, {"envelope": "torus"}, {"background_photons": -2}, {"density_per_um3": float("inf")}])
def test_bad_scenes_are_refused(change):
    with pytest.raises(InputError) as caught:
        dataclasses.replace(SceneConfig(), **change)
    assert "expected" in str(caught.value)


def test_a_field_without_room_for_a_cell_is_refused():
    with pytest.raises(InputError, match="too small"):
        simulate_tracks(SceneConfig(shape=(2, 4, 16, 16)))
