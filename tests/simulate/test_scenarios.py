"""The named scenes are what they say: density, steps, events and SNR; and their truth is where the light is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree

from cellfm_nb.errors import InputError
from cellfm_nb.simulate import Scene, SceneConfig, scenario, scenario_optics, simulate_tracks
from cellfm_nb.simulate.movie import rendered
from cellfm_nb.simulate.scenarios import SCENES, SNRS

UM = ["z_um", "y_um", "x_um"]


def numbers(config, seeds=(0, 1, 2)):
    """What `baselines` states of a movie, as means over seeds; lengths in xy pixels."""
    rows = []
    for seed in seeds:
        truth = simulate_tracks(config, seed)
        shown = truth.positions[truth.positions["visible"]]
        nearest = np.concatenate([cKDTree(rows[UM]).query(rows[UM], 2)[0][:, 1] for _, rows in shown.groupby("frame")])
        tracks = truth.positions.sort_values(["track_id", "frame"]).groupby("track_id")
        step = np.linalg.norm(tracks[UM].diff().dropna(), axis=1)
        kinds = truth.events["kind"].value_counts()
        count = shown.groupby("frame").size()
        pixel = config.spacing_um[2]
        rows.append({"fewest": count.min(), "most": count.max(), "nearest": nearest.mean() / pixel,
                     "step": np.median(step) / pixel, "long": np.percentile(step, 95) / pixel,
                     "splits": kinds.get("split", 0), "merges": kinds.get("merge", 0)})
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


# the peers' movies: (value, relative tolerance)
@pytest.mark.parametrize(("name", "wanted"), [
    ("sparse", {"nearest": (24, 0.12), "step": (1.3, 0.1), "long": (3.4, 0.1), "splits": (10, 0.25)}),
    ("dense", {"nearest": (11, 0.17), "step": (4.3, 0.1), "long": (11.6, 0.1), "splits": (30, 0.15),
               "merges": (16, 0.2), "fewest": (74, 0.05), "most": (89, 0.05)})])
def test_sparse_and_dense_are_as_the_peers_movies(name, wanted):
    found = numbers(scenario(name))
    for what, (value, tolerance) in wanted.items():
        assert found[what] == pytest.approx(value, rel=tolerance), what


def test_the_others_are_what_their_names_say():
    assert numbers(scenario("crowded"), [0])["nearest"] < 0.6 * numbers(scenario("dense"), [0])["nearest"]
    masses = simulate_tracks(scenario("faint"), 0).positions.query("frame == 0")["mass"]
    assert 0.1 < (masses < masses.median() / 2).mean() < 0.35
    drifting, still = (simulate_tracks(scenario("drift", **change), 0).positions for change in
                       ({}, {"drift_um_s": (0, 0, 0)}))
    moved = (drifting[UM] - still[UM])[drifting["frame"] == 39]
    assert np.allclose(moved, np.multiply(scenario("drift").drift_um_s, 78)) and moved["y_um"].min() > 1
    shapes = {name: scenario(name).shape for name in SCENES}
    assert shapes.pop("virus") == (100, 10, 512, 512) and set(shapes.values()) == {(40, 48, 160, 160)}
    assert scenario("dense", n_puncta=5).n_puncta == 5 and scenario("dense", 8.0).snr == 8
    with pytest.raises(InputError, match="No such scenario"):
        scenario("spares")


def test_viruses_switch_between_brownian_and_directed_motion():
    config = scenario("virus", n_puncta=60, shape=(40, 10, 512, 512))
    truth = simulate_tracks(config, 0)
    assert truth.positions["visible"].all() and len(truth.events) == 0
    shown = truth.positions.groupby("frame").size()
    assert 40 < shown.min() <= shown.max() < 85 and truth.tracks["start"].gt(0).sum() > 5
    step = truth.positions.sort_values(["track_id", "frame"]).groupby("track_id")[UM].diff().dropna()
    far = np.linalg.norm(step[["y_um", "x_um"]], axis=1)
    assert 0.2 < (far > 0.25).mean() < 0.5                      # directed 0.25 um a frame, Brownian 0.14


@pytest.mark.parametrize("snr", SNRS)
def test_the_snr_is_the_one_asked_for(snr):
    # read off the noise-free picture: a shifted baseline, and the tallest voxel near each punctum that stands alone
    config = scenario("sparse", snr, shape=(1, 48, 160, 160), split_rate_s=0, n_puncta=60)
    scene = Scene(config, *scenario_optics(), seed=3)
    light = scene.expected(0) - scene.background
    rows = scene.truth.positions
    places, peaks = rows[UM].to_numpy(), []
    for place in rows[["z", "y", "x"]].to_numpy():
        low = np.maximum(np.rint(place).astype(int) - 2, 0)
        peaks.append(light[tuple(slice(a, a + 5) for a in low)].max())
    alone = cKDTree(places).query(places, 2)[0][:, 1] > 1.0
    assert alone.mean() > 0.8 and np.median(peaks) / np.sqrt(100 + 1.6**2) == pytest.approx(snr, rel=0.03)
    inside = scene.background[tuple(np.rint(rows[["z", "y", "x"]].to_numpy()).astype(int).T)]
    assert np.median(inside) == pytest.approx(100, rel=0.1)


def test_light_is_where_the_truth_says_while_everything_drifts():
    config = scenario("drift", 8.0, shape=(8, 48, 160, 160), n_puncta=15, drift_um_s=(0.01, 0.05, -0.05))
    scene = Scene(config, *scenario_optics(), seed=1)
    for frame in (0, 7):
        light = scene.expected(frame) - scene._diffuse(frame)
        rows = scene.truth.positions.query("frame == @frame and visible")
        points, half, checked = rows[["z", "y", "x"]].to_numpy(), np.array([7, 12, 12]), 0
        for i, place in enumerate(points):
            low = np.rint(place).astype(int) - half
            near = (np.abs(np.delete(points, i, 0) - place) < 2 * half + 2).all(1).any()
            if near or (low < 0).any() or (low + 2 * half + 1 > light.shape).any():
                continue
            window = light[tuple(slice(a, a + 2 * h + 1) for a, h in zip(low, half, strict=True))].astype(float)
            grid = np.stack(np.meshgrid(*map(np.arange, window.shape), indexing="ij"), -1)
            centroid = (grid * window[..., None]).sum((0, 1, 2)) / window.sum() + low
            assert np.abs(centroid - place).max() < 0.02
            checked += 1
        assert checked >= 4
    # the background goes with the cell: 0.05 um/s * 14 s = 0.7 um
    later, shift = scene._diffuse(7), np.multiply(config.drift_um_s, 14) / config.spacing_um
    z, y, x = (np.arange(20, 40), np.arange(60, 100), np.arange(60, 100))
    before = scene.background[np.ix_(z, y, x)] - later[np.ix_(z, y, x)]
    z2, y2, x2 = (np.rint(a + s).astype(int) for a, s in zip((z, y, x), shift, strict=True))
    after = scene.background[np.ix_(z, y, x)] - later[np.ix_(z2, y2, x2)]
    assert np.abs(after).mean() < 0.5 * np.abs(before).mean()


def test_any_number_of_workers_gives_the_same_bits():
    config = SceneConfig(shape=(5, 24, 64, 64), n_puncta=12)
    psf, camera = scenario_optics()
    camera = dataclasses.replace(camera, hot_share=0.01, read_spread=0.2)
    scene = Scene(config, psf, camera, 4)
    one, many = list(rendered(scene, 1)), list(rendered(scene, 3))
    for t, ((a, (wa, va)), (b, (wb, vb))) in enumerate(zip(one, many, strict=True)):
        assert np.array_equal(a, b) and np.array_equal(wa, wb) and np.array_equal(va, vb)
        assert np.array_equal(a, scene.render(t)[0])
