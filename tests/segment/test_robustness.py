"""What movies do to a segmentation: noise alone, hot voxels, a bright frame, a wrong PSF, crowds, tiles."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from cellfm_nb.curate import fit_noise, normalize
from cellfm_nb.score.detection import match_points
from cellfm_nb.score.instances import score_instances
from cellfm_nb.seeds import rng
from cellfm_nb.segment.blobs import FWHM, detect
from cellfm_nb.segment.instances import segment_instances
from cellfm_nb.segment.movie import detect_movie
from cellfm_nb.segment.objects import axes_um, centroids
from tests.segment.test_movie import SHAPE, UM, f1, film

VOLUMES, RATE = 60, 0.05


def test_false_alarms_on_pure_noise_are_as_rare_as_stated(scene):
    """Where every discovery is false, a false discovery rate is the chance of any discovery."""
    noise = (rng(k, "alarms").normal(size=(16, 48, 48)).astype(np.float32) for k in range(VOLUMES))
    alarms = sum(len(detect(v, scene.spacing_um, scene.sigma_um, RATE)) > 0 for v in noise)
    assert alarms <= binom.ppf(0.999, VOLUMES, RATE), alarms


def counts_of(frames, gain=20.0):
    return [1000 + gain * v for v in frames]


def judged(counts, scene, sigma=None):
    volumes = [normalize(c, fit_noise(c), scene.spacing_um) for c in counts]
    return list(detect_movie(volumes, scene.spacing_um, sigma or scene.sigma_um))


def test_hot_voxels_are_no_objects_of_a_movie(scene):
    frames, true = film(scene, 8.0, n_frames=6)
    hot = rng(2, "hot").integers([2, 4, 4], np.array(SHAPE) - [2, 4, 4], (12, 3))
    counts = counts_of(frames)
    for c in counts:
        c[tuple(hot.T)] += 3000
    tables = judged(counts, scene)
    assert f1(tables, true, scene.sigma_um) > 0.85
    on_hot = sum(len(match_points(t[UM], hot * scene.spacing_um, 0.12).found) for t in tables)
    assert on_hot <= 0.05 * 12 * 6


def test_a_frame_of_another_brightness_changes_nothing(scene):
    frames, true = film(scene, 6.0, n_frames=6, seed=1)
    counts = counts_of(frames)
    plain = judged(counts, scene)
    counts[3] = 2.5 * counts[3] + 400
    odd = judged(counts, scene)
    assert abs(f1(plain, true, scene.sigma_um) - f1(odd, true, scene.sigma_um)) < 0.05
    assert f1(odd[3:4], true[3:4], scene.sigma_um) > 0.85


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_psf_wrong_by_a_fifth_costs_little_in_a_movie(scene, factor):
    frames, true = film(scene, 3.0, n_frames=8, seed=2)
    right, wrong = (f1(list(detect_movie(frames, scene.spacing_um, [k * s for s in scene.sigma_um])), true,
                       scene.sigma_um) for k in (1, factor))
    assert wrong > right - 0.1


def test_puncta_that_all_touch_are_told_apart(scene):
    step = 1.3 * FWHM * scene.sigma_um[-1]
    true = np.array([[3.0, 1.2 + step * j, 1.2 + step * i] for j in range(8) for i in range(8)])
    volume, labels = scene(true, np.full(64, 15.0))
    spots = detect(volume, scene.spacing_um, scene.sigma_um)
    assert f1([spots], [true], scene.sigma_um) > 0.95
    found = segment_instances(volume, spots, scene.spacing_um, scene.sigma_um)
    assert score_instances([(found, labels)]).ap[0.5] > 0.85


def test_tiles_equal_the_whole_up_to_names(scene):
    shape = (24, 64, 128)
    true = scene.grid_positions(shape)
    volume, _ = scene(true, np.full(len(true), 12.0), shape, own_um=0.05)
    spots = detect(volume, scene.spacing_um, scene.sigma_um)
    whole = segment_instances(volume, spots, scene.spacing_um, scene.sigma_um)
    halo, parts = 16, []
    for first, last in ((0, 64), (64, 128)):
        low, high = max(first - halo, 0), min(last + halo, 128)
        near = spots[spots["x"].between(low - 0.5, high - 0.5)]
        tile = segment_instances(volume[..., low:high], near.assign(x=near["x"] - low).reset_index(drop=True),
                                 scene.spacing_um, scene.sigma_um)
        names = np.append(0, near.index.to_numpy() + 1)                               # a row of the tile, of the whole
        parts.append(names[tile][..., first - low : last - low])
    assert (np.concatenate(parts, 2) == whole).mean() > 0.9999 and whole.any()


def test_twenty_thousand_objects_in_one_volume(scene):
    at = np.stack(np.meshgrid(np.arange(20), np.arange(32), np.arange(32), indexing="ij"), -1).reshape(-1, 3)
    voxels = at * [4, 5, 5] + [2, 2, 2]
    one = np.array([1.0, 3, 5, 3, 1])
    patch = 10 * one[:, None, None] * one[None, :, None] * one / 125
    volume = rng(0, "many").normal(size=(82, 162, 162)).astype(np.float32)
    offset = np.moveaxis(np.indices((5, 5, 5)), 0, -1).reshape(-1, 3) - 2
    place = np.minimum(voxels[:, None] + offset, np.array(volume.shape) - 1)
    np.add.at(volume, tuple(np.moveaxis(place, -1, 0)), np.broadcast_to(patch.ravel(), place.shape[:2]))
    spots = pd.DataFrame(voxels.astype(float), columns=["z", "y", "x"])
    spots[["amplitude", "scale", "score", "p_value"]] = 10.0, 0.03, 8.0, 1e-9
    spots[["sd_log_mass", "sd_z_um", "sd_y_um", "sd_x_um"]] = 0.1
    labels = segment_instances(volume, spots, scene.spacing_um, scene.sigma_um)
    names, counts = np.unique(labels[labels > 0], return_counts=True)
    assert len(voxels) == 20480 and len(names) > 0.99 * 20480 and names.max() <= 20480
    place = centroids(volume, labels, names, 1.0)[0]
    off = np.abs(place - voxels[names.astype(int) - 1]).max(1)
    assert np.median(off) < 0.5 and np.median(counts) < 4 * 5 * 5
    assert axes_um(labels, names, np.array(scene.spacing_um)).all()
