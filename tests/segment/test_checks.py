"""Planted puncta, thinned photons, varied settings."""

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.segment import checks
from cellfm_nb.segment.blobs import detect


def test_planted_puncta_are_where_asked_and_apart(scene):
    taken = np.array([[3.0, 3.0, 3.0]])
    places = checks.free_places((24, 64, 64), scene.spacing_um, 20, taken, (0.9, 0.6, 0.6), seed=1)
    everyone = np.concatenate([taken, places]) / (0.9, 0.6, 0.6)
    gap = np.linalg.norm(everyone[:, None] - everyone, axis=2) + 9 * np.eye(len(everyone))
    assert len(places) == 20 and gap.min() > 1
    volume = checks.plant(np.zeros((24, 64, 64)), places, 7.0, scene.spacing_um, scene.sigma_um)
    expected, _ = scene(places, np.full(20, 7.0), noise=0)
    assert np.abs(volume - expected).max() < 0.35            # the model ends 2.5 deviations from its centre


def test_bright_ones_are_recovered_and_none_where_none_is(scene):
    noise = rng(5, "noise").normal(size=(24, 64, 64)).astype(np.float32)
    places = checks.free_places(noise.shape, scene.spacing_um, 15, np.zeros((0, 3)), (0.9, 0.6, 0.6), seed=2)
    rate = {}
    for peak in (0.0, 2.0, 8.0):
        volume = checks.plant(noise, places, peak, scene.spacing_um, scene.sigma_um)
        found = detect(volume, scene.spacing_um, scene.sigma_um)[["z_um", "y_um", "x_um"]].to_numpy()
        rate[peak] = checks.recovered(found, places, (0.8, 0.3, 0.3)).mean()
    assert rate[0.0] == 0 and rate[8.0] == 1 and rate[0.0] <= rate[2.0] <= rate[8.0]


def test_halves_add_up_and_are_independent():
    light = 5 + 4 * np.sin(np.arange(60) / 5)[:, None, None] * np.ones((60, 40, 40))
    photons = rng(1, "light").poisson(light)
    a, b = checks.split_photons(100 + 2 * photons, 2.0, 100.0)
    np.testing.assert_array_equal(a + b, photons)
    error = [half - light / 2 for half in (a, b)]
    assert abs(np.corrcoef(error[0].ravel(), error[1].ravel())[0, 1]) < 0.015
    assert error[0].var() == pytest.approx((light / 2).mean(), rel=0.03)
    doubled = np.corrcoef((photons - light).ravel(), error[0].ravel())[0, 1]
    assert doubled > 0.6                                     # the whole frame is no independent witness


def test_each_setting_is_varied_alone():
    table = checks.vary(lambda a, b: int(100 * a + sum(b)), {"a": 1.0, "b": [10, 20]})
    assert table.loc["a"].tolist() == [120, 130, 140] and table.loc["b"].tolist() == [127, 130, 133]


def test_missing_gain_and_room_are_said():
    with pytest.raises(InputError, match="photons"):
        checks.split_photons(np.ones((2, 2, 2)), 0.0, 0.0)
    with pytest.raises(InputError, match="room"):
        checks.free_places((2, 2, 2), (0.1, 0.1, 0.1), 3, np.zeros((0, 3)), (1, 1, 1))
