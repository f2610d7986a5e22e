"""Detection: positions with honest uncertainties, false alarms at the stated rate, decoys, neighbours, nuisances."""

import numpy as np
import pytest

from cellfm_nb.score.detection import score_detection
from cellfm_nb.seeds import rng
from cellfm_nb.segment.blobs import FWHM, detect
from cellfm_nb.segment.evidence import score_map
from cellfm_nb.segment.maxima import footprint_size, local_maxima
from cellfm_nb.segment.psf import estimate_psf_sigma

UM = ["z_um", "y_um", "x_um"]


def f1(spots, true, sigma):
    return score_detection([(spots[UM].to_numpy(), true)], FWHM * np.array(sigma)).f1


def test_finds_bright_puncta_to_a_fraction_of_a_voxel(scene):
    true = scene.grid_positions()
    volume, _ = scene(true, np.full(len(true), 12.0))
    spots = detect(volume, scene.spacing_um, scene.sigma_um)
    score = score_detection([(spots[UM].to_numpy(), true)], 0.2)
    assert score.f1 > 0.94 and score.recall == 1            # one false in twenty is what was asked for
    assert max(score.rmse_um[1:]) < 0.02 and score.rmse_um[0] < 0.05
    assert spots["amplitude"].median() == pytest.approx(12, rel=0.15)


def test_stated_uncertainties_are_the_real_ones(scene):
    pulls = []
    for seed in range(4):
        true = scene.grid_positions(seed=seed)
        volume, _ = scene(true, np.full(len(true), 6.0), seed=seed)
        spots = detect(volume, scene.spacing_um, scene.sigma_um)
        d = spots[UM].to_numpy()[:, None] - true
        nearest = np.abs(d / np.array(scene.sigma_um)).sum(-1).argmin(1)
        error = d[np.arange(len(spots)), nearest]
        near = (np.abs(error) < 2 * np.array(scene.sigma_um)).all(1)
        pulls.append((error / spots[["sd_z_um", "sd_y_um", "sd_x_um"]].to_numpy())[near])
    spread = 1.4826 * np.median(np.abs(np.concatenate(pulls)), axis=0)
    assert ((spread > 0.75) & (spread < 1.35)).all()


def test_pure_noise_gives_almost_nothing():
    counts = [len(detect(rng(k, "pure").normal(size=(24, 64, 64)), (0.25, 0.1, 0.1), (0.35, 0.13, 0.13)))
              for k in range(8)]
    assert np.mean([c > 0 for c in counts]) <= 0.5 and np.mean(counts) <= 1.0


def test_decoys_must_be_of_the_flipped_map_before_the_maximum(scene):
    noise = rng(5, "decoys").normal(size=(24, 96, 96)).astype(np.float32)
    evidence = score_map(noise, scene.spacing_um, scene.sigma_um)
    size = footprint_size(np.array(scene.spacing_um), np.array(scene.sigma_um))
    targets, decoys, wrong = (len(local_maxima(m, size, 2.75)) for m in (evidence.z, evidence.flipped, -evidence.z))
    assert decoys == pytest.approx(targets, rel=0.25)
    assert wrong < 0.8 * decoys                             # max over scales first, then flipped: too few by far


def test_another_brightness_and_offset_scale_give_the_same_objects(scene):
    true = scene.grid_positions()
    volume, _ = scene(true, np.full(len(true), 8.0))
    a, b = (detect(v, scene.spacing_um, scene.sigma_um) for v in (volume, volume + 3))
    assert len(a) == len(b)
    np.testing.assert_allclose(a[UM].to_numpy(), b[UM].to_numpy(), atol=0.02)


def test_second_look_finds_what_a_bright_neighbour_hides(scene):
    lateral = FWHM * scene.sigma_um[-1]
    bright = np.array([[z, y, 1.5 + 2.0 * k] for z in (1.6, 4.0) for y in (1.5, 3.5, 5.2) for k in range(3)])
    faint = bright + [0, 0, 1.35 * lateral]
    volume, _ = scene(np.concatenate([bright, faint]), np.repeat([20.0, 8.0], len(bright)), shape=(24, 64, 80))
    one, two = (detect(volume, scene.spacing_um, scene.sigma_um, looks=k) for k in (1, 2))
    recall = [score_detection([(s[UM].to_numpy(), faint)], 0.15).recall for s in (one, two)]
    assert recall[1] >= recall[0] + 0.3 and recall[1] > 0.6
    assert len(two) <= len(bright) + len(faint) + 2


def test_smooth_haze_and_a_cell_rim_are_no_blobs(scene):
    z, y, x = np.indices((24, 96, 96)).astype(float)
    inside = 1 / (1 + np.exp((np.hypot(y - 48, x - 48) - 32) / 3))
    volume = rng(6, "haze").normal(size=inside.shape) + 3 * inside
    assert len(detect(volume, scene.spacing_um, scene.sigma_um)) <= 3


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_wrong_psf_degrades_gracefully(scene, factor):
    true = scene.grid_positions()
    volume, _ = scene(true, np.full(len(true), 5.0))
    wrong = tuple(factor * s for s in scene.sigma_um)
    right = f1(detect(volume, scene.spacing_um, scene.sigma_um), true, scene.sigma_um)
    assert f1(detect(volume, scene.spacing_um, wrong), true, scene.sigma_um) > right - 0.1


def test_isotropic_and_anisotropic_sampling_see_the_same_objects(scene):
    true = np.array([[1.5, 1.5, 1.5], [3.5, 2.5, 4.5], [4.0, 5.0, 2.0], [2.0, 4.6, 4.8]])
    coarse, _ = scene(true, np.full(4, 15.0))
    fine, _ = scene(true, np.full(4, 15.0), shape=(60, 64, 64), spacing_um=(0.1, 0.1, 0.1))
    for volume, spacing in ((coarse, scene.spacing_um), (fine, (0.1, 0.1, 0.1))):
        assert f1(detect(volume, spacing, scene.sigma_um), true, scene.sigma_um) == 1


def test_one_object_and_an_empty_frame(scene):
    volume, _ = scene([np.array([3.0, 3.0, 3.0])], [15.0])
    assert len(detect(volume, scene.spacing_um, scene.sigma_um)) == 1
    assert len(detect(np.zeros((8, 16, 16), np.float32), scene.spacing_um, scene.sigma_um)) == 0


def test_psf_is_estimated_from_the_data(scene):
    true = scene.grid_positions(shape=(32, 96, 96))
    volume, _ = scene(true, np.full(len(true), 20.0), shape=(32, 96, 96))
    estimate = estimate_psf_sigma(volume, scene.spacing_um)
    np.testing.assert_allclose(estimate, scene.sigma_um, rtol=0.1)
    assert estimate[1] == estimate[2]
