"""The peers behind one interface."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.track import default_radius_um, link_with
from cellfm_nb.track.link import TRACK_COLUMNS

from .conftest import POSITION, SPACING, link_set


@pytest.mark.parametrize("name", ["ours", "trackpy", "trackpy adaptive", "hungarian", "laptrack"])
def test_every_linker_links_the_scene(name: str, scene: tuple) -> None:
    if name in ("laptrack",):
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
