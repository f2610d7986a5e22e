"""Peers behind one interface."""

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.detection import score_detection
from cellfm_nb.seeds import rng
from cellfm_nb.segment.baselines import PEERS, amplitude_t, clesperanto_labels, detect_with


@pytest.mark.parametrize("name", PEERS)
def test_peers_find_bright_puncta_without_noise(scene, name):
    true = scene.grid_positions()
    volume, _ = scene(true, np.full(len(true), 50.0))
    found = detect_with(name, volume, scene.spacing_um, scene.sigma_um)
    assert list(found.columns) == ["z", "y", "x", "z_um", "y_um", "x_um", "score"]
    best = found.head(len(true))[["z_um", "y_um", "x_um"]].to_numpy()
    assert score_detection([(best, true)], 0.3).f1 > 0.8


def test_unknown_peer_is_said(scene):
    with pytest.raises(InputError, match="unknown detector"):
        detect_with("magic", np.zeros((4, 4, 4)), (1, 1, 1))


def test_t_value_is_that_of_ordinary_least_squares():
    sigma = np.array([1.2, 1.0, 1.0])
    v = rng(3, "t").normal(size=(9, 9, 9)) + 4.0
    offset = np.indices((9, 7, 7)).reshape(3, -1).T - np.array([4, 3, 3])
    g = np.exp(-0.5 * ((offset / sigma) ** 2).sum(1))
    y = v[:, 1:8, 1:8].ravel()
    design = np.stack([g, np.ones_like(g)], 1)
    fit, rest = np.linalg.lstsq(design, y, rcond=None)[:2]
    error = np.sqrt(rest[0] / (len(y) - 2) * np.linalg.inv(design.T @ design)[0, 0])
    assert amplitude_t(v, sigma)[4, 4, 4] == pytest.approx(fit[0] / error)


def test_pyclesperanto_runs_or_says_why_not():
    volume = np.zeros((12, 30, 30), np.float32)
    volume[6, 8, 8] = volume[6, 22, 22] = 1000
    try:
        labels = clesperanto_labels(volume, 2, 1)
    except InputError as error:
        assert "pyclesperanto does not run" in str(error) and "pip install" in str(error)
    else:
        assert labels.max() == 2 and labels.dtype == np.uint32
