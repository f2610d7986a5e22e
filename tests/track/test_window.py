"""A long movie in windows: the links of the whole, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.simulate import SceneConfig, simulate_tracks
from cellfm_nb.track import link_objects
from cellfm_nb.track.chains import Chains
from cellfm_nb.track.window import HALO, fullest

from .conftest import SPACING, detections, link_set


@pytest.fixture(scope="module")
def long_scene() -> tuple:
    truth = simulate_tracks(SceneConfig(shape=(90, 40, 144, 144), n_puncta=40), 105)
    return truth, detections(truth, 105)


def test_windows_equal_the_whole_with_the_same_scales(long_scene: tuple) -> None:
    objects = long_scene[1]
    scales = link_objects(objects, SPACING, 2.0).scales
    whole = link_objects(objects, SPACING, 2.0, scales=scales)
    parts = link_objects(objects, SPACING, 2.0, scales=scales, window_frames=20)
    a, b = link_set(whole.tracks), link_set(parts.tracks)
    away = {pair for pair in a ^ b if min(abs(pair[0][0] + 1 - edge) for edge in (20, 40, 60, 80)) > 3}
    assert len(away) <= 0.001 * len(a) and len(a ^ b) <= 0.003 * len(a)
    assert abs(len(whole.events) - len(parts.events)) <= 2 and len(parts.tracks) == len(objects)


def test_windows_that_learn_their_scales_are_about_as_right(long_scene: tuple) -> None:
    objects = long_scene[1]
    true = link_set(objects, "true_id")
    missed = [len(true - link_set(link_objects(objects, SPACING, 2.0, window_frames=w).tracks)) for w in (None, 30)]
    assert missed[1] <= missed[0] + 0.005 * len(true)


def test_no_window_holds_more_than_its_frames(long_scene: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    held, start = [], Chains.__init__

    def watched(self: Chains, x: np.ndarray, frame: np.ndarray, *rest: object) -> None:
        held.append(int(np.ptp(frame)) + 1)
        start(self, x, frame, *rest)

    monkeypatch.setattr(Chains, "__init__", watched)
    link_objects(long_scene[1], SPACING, 2.0, window_frames=15)
    assert max(held) <= 15 + 2 * HALO and len(held) == 1 + 6


def test_bad_windows_are_refused(long_scene: tuple) -> None:
    with pytest.raises(InputError, match="window"):
        link_objects(long_scene[1], SPACING, 2.0, window_frames=1)


def test_windows_without_objects_are_skipped(long_scene: tuple) -> None:
    """Nothing but frames 0 to 9 and 120 to 129: the middle of the movie, and windows of it, are empty."""
    objects = long_scene[1][long_scene[1]["frame"] < 20]
    objects = objects.assign(frame=objects["frame"] + 110 * (objects["frame"] >= 10))
    linking = link_objects(objects, SPACING, 2.0, window_frames=10)
    assert len(linking.tracks) == len(objects) and linking.tracks["track_id"].nunique() < len(objects) / 4


def test_the_fullest_window_tells_the_scales() -> None:
    assert fullest(np.array([0, 0, 5, 6, 6, 9]), 2) == 5
    assert fullest(np.repeat(np.arange(11), 3), 3) == 4                # all alike: the middle
