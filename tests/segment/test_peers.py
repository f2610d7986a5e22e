"""Peers behind one interface."""

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.detection import score_detection
from cellfm_nb.segment.baselines import PEERS, detect_with


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
