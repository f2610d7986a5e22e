"""The objects table: columns, light and centroids with honest uncertainties, descriptors, whole movies to disk."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import center_of_mass, gaussian_filter

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, list_labels, open_labels
from cellfm_nb.score.detection import match_points
from cellfm_nb.score.instances import score_instances
from cellfm_nb.seeds import rng
from cellfm_nb.segment.blobs import detect
from cellfm_nb.segment.bodies import segment_bodies
from cellfm_nb.segment.instances import FeatureGrid, segment_instances
from cellfm_nb.segment.objects import COLUMNS, axes_um, body_table, centroids, object_table
from cellfm_nb.segment.write import write_objects


def measured(scene, peak=12.0, seed=0, features=None, gain=1.0, offset=0.0):
    true = scene.grid_positions(seed=seed)
    volume, _ = scene(true, np.full(len(true), peak), seed=seed)
    spots = detect(volume, scene.spacing_um, scene.sigma_um)
    labels = segment_instances(volume, spots, scene.spacing_um, scene.sigma_um)
    return true, object_table(labels, gain * volume + offset, scene.spacing_um, spots, scene.sigma_um, features, 3)


def test_columns_and_units(scene):
    true, table = measured(scene)
    assert list(table.columns) == COLUMNS and (table["frame"] == 3).all()
    np.testing.assert_allclose(table[["z_um", "y_um", "x_um"]], table[["z", "y", "x"]] * scene.spacing_um)
    half_peak = 4 / 3 * np.pi * np.prod(np.sqrt(2 * np.log(2)) * np.array(scene.sigma_um))
    assert table["volume_um3"].median() == pytest.approx(half_peak, rel=0.2)


def test_light_is_unbiased_linear_and_its_error_real(scene):
    integral = (2 * np.pi) ** 1.5 * np.prod(np.array(scene.sigma_um) / scene.spacing_um)
    _, table = measured(scene, 8.0)
    ratio = table["mass"] / (8.0 * integral)
    assert np.median(ratio) == pytest.approx(1, abs=0.08)
    spread = 1.4826 * np.median(np.abs(ratio - np.median(ratio)))
    assert spread == pytest.approx((table["mass_sd"] / (8.0 * integral)).median(), rel=0.5)
    _, scaled = measured(scene, 8.0, gain=3.0, offset=100.0)
    np.testing.assert_allclose(scaled["mass"], 3 * table["mass"], rtol=1e-3)


def test_the_light_that_tells_objects_apart_is_the_fits_own(scene):
    _, table = measured(scene, 8.0)
    assert table["amplitude"].median() == pytest.approx(8.0, rel=0.08)
    volume = np.prod(scene.sigma_um)
    assert (table["light"] / table["amplitude"]).median() == pytest.approx(volume, rel=0.15)
    error = 1.4826 * (table["light"] / (8.0 * volume) - 1).abs().median()
    assert error == pytest.approx((table["light_sd"] / table["light"]).median(), rel=0.6)
    _, scaled = measured(scene, 8.0, gain=3.0, offset=100.0)  # it does not follow the units of the volume
    np.testing.assert_allclose(scaled[["amplitude", "light"]], table[["amplitude", "light"]], rtol=1e-3)


def test_weighted_centroid_beats_the_geometric_one(scene):
    true = np.array([[3.05, 3.04, 3.07]])
    errors = []
    for seed in range(12):
        volume, _ = scene(true, [10.0], seed=seed)
        box = np.zeros(volume.shape, np.uint32)
        box[9:17, 26:35, 27:36] = 1                          # a mask that is not centred on the object
        weighted, sd, _ = centroids(volume, box, np.array([1]), 1.0)
        geometric = np.argwhere(box).mean(0)
        errors.append([np.abs(c * scene.spacing_um - true[0]) for c in (weighted[0], geometric)])
    weighted, geometric = np.mean(errors, axis=0)
    assert (weighted[1:] < geometric[1:]).all() and (sd > 0).all()


def test_descriptor_is_the_mean_over_the_object(scene):
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[None, None, :, None], (6, 8, 8, 1))
    _, table = measured(scene, features=FeatureGrid(ramp, (4, 8, 8)))
    inner = table[(table["x"] > 4) & (table["x"] < 59)]
    np.testing.assert_allclose(inner["d0"], (inner["x"] + 0.5) / 8 - 0.5, atol=0.08)


def test_foreign_labels_are_said(scene):
    labels = np.full((2, 2, 2), 7, np.uint32)
    spots = pd.DataFrame({c: [1.0] for c in ("z", "y", "x", "amplitude", "scale", "score", "p_value", "sd_log_mass",
                                             "sd_z_um", "sd_y_um", "sd_x_um")})
    with pytest.raises(InputError, match="belong together"):
        object_table(labels, np.zeros((2, 2, 2)), (1, 1, 1), spots, (1, 1, 1))


def plain(movie, t, c=0):
    """Return a frame as if normalised."""
    return (movie.frame(t, c).astype(np.float32) - 1000) / 10, movie.spacing_um


def test_movie_to_table_and_labels(scene, tmp_path):
    true = scene.grid_positions()
    frames = np.stack([scene(true, np.full(len(true), a), seed=k)[0] for k, a in enumerate((12.0, 9.0))])
    frames = np.concatenate([frames, np.zeros_like(frames[:1])])                      # and an empty frame
    path = tmp_path / "movie.ome.zarr"
    Movie.from_array(np.rint(frames * 10 + 1000).astype(np.uint16), axes="tzyx", spacing_um=scene.spacing_um,
                     dt_s=1.0).save(path)
    write_objects(tmp_path / "objects.parquet", path / "labels" / "objects", path, plain, scene.sigma_um)
    table = pd.read_parquet(tmp_path / "objects.parquet")
    assert list_labels(path) == ["objects"]
    stored = open_labels(path, "objects")
    for t in range(3):
        mine = table[table["frame"] == t]
        assert set(np.unique(stored.frame(t))) - {0} == set(mine["label"])
    assert (table["frame"] == 2).sum() == 0 and len(table) > 1.8 * len(true)


def test_errors_are_as_large_as_said(scene):
    """Pulls (found - true) / sd have mean 0 and deviation 1, for places and light."""
    integral = (2 * np.pi) ** 1.5 * np.prod(np.array(scene.sigma_um) / scene.spacing_um)
    pulls = []
    for seed in (1, 2, 3):
        true, table = measured(scene, 10.0, seed=seed)
        pairs = match_points(table[["z_um", "y_um", "x_um"]], true, (0.8, 0.3, 0.3))
        mine = table.iloc[pairs.found]
        place = (mine[["z_um", "y_um", "x_um"]].to_numpy() - true[pairs.true]) / mine[["sd_z_um", "sd_y_um", "sd_x_um"]]
        light = (mine["mass"] - np.median(mine["mass"])) / mine["mass_sd"]
        assert np.median(mine["mass"]) == pytest.approx(10 * integral, rel=0.08)
        pulls.append(np.column_stack([place, light]))
    pulls = np.concatenate(pulls)
    spread = 1.4826 * np.median(np.abs(pulls), axis=0)
    assert (np.abs(np.median(pulls, axis=0)) < 0.3).all() and (np.abs(spread - 1) < 0.35).all(), spread


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_psf_wrong_by_a_fifth_costs_light_but_hardly_objects(scene, factor):
    true = scene.grid_positions()
    volume, _ = scene(true, np.full(len(true), 10.0))
    wrong = tuple(factor * s for s in scene.sigma_um)
    spots = detect(volume, scene.spacing_um, wrong)
    labels = segment_instances(volume, spots, scene.spacing_um, wrong)
    table = object_table(labels, volume, scene.spacing_um, spots, wrong)
    pairs = match_points(table[["z_um", "y_um", "x_um"]], true, (0.8, 0.3, 0.3))
    assert len(pairs.true) > 0.95 * len(true) and len(table) < 1.1 * len(true)
    integral = (2 * np.pi) ** 1.5 * np.prod(np.array(scene.sigma_um) / scene.spacing_um)
    assert table["mass"].median() == pytest.approx(10 * integral, rel=0.3)


def nuclei(seed=0, gain=2.0):
    """Return (counts, labels) of six bodies of several sizes and brightnesses, and their true light and places."""
    spacing, draw = np.array([0.6, 0.4, 0.4]), rng(seed, "nuclei")
    grid = np.moveaxis(np.indices((26, 50, 72)), 0, -1) * spacing
    labels, light = np.zeros(grid.shape[:3], np.uint32), np.zeros(grid.shape[:3])
    places = np.array([[7.5, y, x] for y in (5.0, 14.5) for x in (5.0, 14.3, 23.5)]) + draw.uniform(-0.4, 0.4, (6, 3))
    for k, place in enumerate(places):
        inside = (((grid - place) / draw.uniform(2.5, 4, 3)) ** 2).sum(-1) < 1
        labels[inside], light[inside] = k + 1, draw.uniform(20, 60)
    clean = gaussian_filter(light, [0.5, 0.6, 0.6])
    return 100 + gain * draw.poisson(clean + 5).astype(np.float32), labels, spacing


def test_bodies_have_the_columns_of_puncta_and_honest_errors():
    pulls = []
    for seed in range(4):
        counts, true, spacing = nuclei(seed)
        table = body_table(segment_bodies(counts, spacing), counts, spacing, frame=2)
        assert list(table.columns) == COLUMNS and len(table) == 6 and (table["frame"] == 2).all()
        place = np.array(center_of_mass(true > 0, true, range(1, 7))) * spacing
        size = np.bincount(true.ravel())[1:] * spacing.prod()
        light = np.array([2 * (counts[true == k].mean() - 110) / 2 * (true == k).sum() for k in range(1, 7)])
        pair = match_points(table[["z_um", "y_um", "x_um"]], place, 1.0)
        mine = table.iloc[pair.found]
        np.testing.assert_allclose(mine["volume_um3"], size[pair.true], rtol=0.15)
        np.testing.assert_allclose(mine["mass"], light[pair.true], rtol=0.1)
        error = mine[["z_um", "y_um", "x_um"]].to_numpy() - place[pair.true]
        pulls.append(error / mine[["sd_z_um", "sd_y_um", "sd_x_um"]].to_numpy())
        assert (mine["p_value"] < 1e-9).all() and (mine["score"] > 20).all()
        assert table["amplitude"].dtype == float and table["amplitude"].isna().all()
    spread = 1.4826 * np.median(np.abs(np.concatenate(pulls)))
    assert 0.4 < spread < 1.6, spread


def test_axes_are_those_of_the_ellipsoid():
    spacing = np.array([0.5, 0.2, 0.2])
    grid = np.moveaxis(np.indices((30, 60, 60)), 0, -1) * spacing - [7.2, 6.1, 5.9]
    turn = np.linalg.qr(rng(3, "turn").normal(size=(3, 3)))[0]
    labels = 7 * ((((grid @ turn) / [5, 3, 2]) ** 2).sum(-1) < 1)
    np.testing.assert_allclose(axes_um(labels, np.array([7]), spacing)[0], [10, 6, 4], rtol=0.03)


def test_the_movie_tells_what_its_objects_are(tmp_path):
    counts, true, spacing = nuclei()
    frames = np.stack([np.full_like(counts, 100), counts, counts]).astype(np.uint16)  # the first one is blank
    path = tmp_path / "movie.ome.zarr"
    Movie.from_array(frames, axes="tzyx", spacing_um=spacing, dt_s=1.0).save(path)
    write_objects(tmp_path / "objects.parquet", path / "labels" / "objects", path, stretched, (0.5, 0.3, 0.3))
    table = pd.read_parquet(tmp_path / "objects.parquet")
    assert table.groupby("frame").size().to_dict() == {1: 6, 2: 6}
    assert score_instances([(open_labels(path, "objects").frame(1), true)]).ap[0.5] == 1
    with pytest.raises(InputError, match="kind"):
        write_objects(tmp_path / "no", tmp_path / "no", path, stretched, (0.5, 0.3, 0.3), kind="nuclei")


def stretched(movie, t, c=0):
    """Return a frame with background 0 and noise 1."""
    v = movie.frame(t, c).astype(np.float32)
    return (v - np.median(v)) / max(np.median(v) - np.quantile(v, 0.16), 1), movie.spacing_um
