"""What tells objects apart beside their place: light, and the size that a fitted height betrays."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.seeds import rng
from cellfm_nb.track import link_objects
from cellfm_nb.track.objects import identity_features

from .conftest import POSITION, SPACING

ERROR = 0.1


@pytest.fixture(scope="module")
def meeting() -> pd.DataFrame:
    """Pairs of equal light and unequal size that come from two sides, are in one place for a frame, and may turn."""
    draw, frames, tables = rng(0, "test", "identity"), 13, []
    for pair in range(30):
        middle = 6.0 * np.array([pair // 10, pair % 10, pair % 3])
        turn = draw.uniform(size=2) < 0.5                            # else it goes on to the other side
        for which, side in enumerate((-1, 1)):
            away = 0.12 * np.abs(np.arange(frames) - 6) * side * np.where((np.arange(frames) > 6) & ~turn[0], -1, 1)
            x = middle + np.stack([away, away, 0 * away], 1) + 0.08 * draw.standard_normal((frames, 3))
            light, size = np.exp(ERROR * draw.standard_normal(frames)), np.exp(2 * ERROR * draw.standard_normal(frames))
            volume = (8.0, 24.0)[which] * size
            mass = 500 * light * np.sqrt(size)
            tables.append(pd.DataFrame(x, columns=POSITION).assign(
                frame=np.arange(frames), mass=mass, mass_sd=ERROR * mass, amplitude=mass / volume,
                true_id=2 * pair + which))
    return pd.concat(tables, ignore_index=True)


def right(objects: pd.DataFrame) -> float:
    """Return the share of pairs whose objects keep their names from first to last frame."""
    tracks = link_objects(objects, SPACING, 2.0, events=False).tracks
    names = tracks.merge(objects[["frame", *POSITION, "true_id"]], on=["frame", *POSITION])
    ends = names[names["frame"].isin((0, 12))].pivot(index="true_id", columns="frame", values="track_id")
    return float((ends[0] == ends[12]).mean())


def test_size_tells_objects_of_equal_light_apart(meeting: pd.DataFrame) -> None:
    with_size, without = right(meeting), right(meeting.drop(columns="amplitude"))
    assert with_size > without + 0.15, (with_size, without)


def test_a_table_without_whole_amplitudes_is_linked_as_one_without(meeting: pd.DataFrame) -> None:
    plain = link_objects(meeting.drop(columns="amplitude"), SPACING, 2.0).tracks
    for amplitude in (np.nan, np.where(np.arange(len(meeting)) == 7, np.nan, meeting["amplitude"]), 0.0):
        pd.testing.assert_frame_equal(link_objects(meeting.assign(amplitude=amplitude), SPACING, 2.0).tracks, plain)
    unstated = meeting.drop(columns="mass_sd")                       # no error of the fit: none of the size either
    pd.testing.assert_frame_equal(link_objects(unstated, SPACING, 2.0).tracks,
                                  link_objects(unstated.drop(columns="amplitude"), SPACING, 2.0).tracks)


def test_the_light_of_the_fit_stands_for_the_mass_where_every_object_has_one(meeting: pd.DataFrame) -> None:
    plain = link_objects(meeting, SPACING, 2.0).tracks
    wrong = meeting.assign(light=meeting["mass"], light_sd=meeting["mass_sd"], mass=meeting["mass"].to_numpy()[::-1])
    assert (link_objects(wrong, SPACING, 2.0).tracks["track_id"] == plain["track_id"]).all()
    bodies = meeting.assign(light=np.nan, light_sd=np.nan)
    assert (link_objects(bodies, SPACING, 2.0).tracks["track_id"] == plain["track_id"]).all()


def test_the_unit_of_the_amplitude_does_not_matter(meeting: pd.DataFrame) -> None:
    other = link_objects(meeting.assign(amplitude=250 * meeting["amplitude"]), SPACING, 2.0).tracks
    same = link_objects(meeting, SPACING, 2.0).tracks
    assert (other["track_id"] == same["track_id"]).all()


def test_errors_of_a_fit_cancel_in_the_light_and_stay_in_the_size() -> None:
    error = rng(1, "test", "fit").standard_normal((2, 4000)) * np.array([[0.1], [0.2]])
    height, volume = np.exp(error[0] - error[1] / 2), 20 * np.exp(error[1])     # opposite senses
    mass = height * volume
    (light, size), least = identity_features(pd.DataFrame({"mass": mass, "amplitude": height, "mass_sd": 0.1 * mass}),
                                             "mass")
    assert np.std(light) == pytest.approx(0.1, rel=0.05) and np.std(light) < 0.8 * np.std(np.log(mass))
    assert np.std(size) == pytest.approx(0.2, rel=0.05) and abs(np.corrcoef(light, size)[0, 1]) < 0.05
    np.testing.assert_allclose(least, [[0.01] * 4000, [0.04] * 4000])


def test_a_size_lent_along_a_path_is_no_better_than_its_error(meeting: pd.DataFrame) -> None:
    volume = meeting["mass"] / meeting["amplitude"]
    lent = volume.groupby(meeting["true_id"]).transform("median")
    scales = link_objects(meeting.assign(amplitude=meeting["mass"] / lent), SPACING, 2.0, events=False).scales
    assert scales.noise[1] == 1.0
