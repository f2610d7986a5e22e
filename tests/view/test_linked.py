"""One selection for all views: what is nearest, who is told, and how the 3D viewer takes part; no browser needed."""

import asyncio

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from cellfm_nb.errors import InputError
from cellfm_nb.view import explore_tracks, linked, marks, volume
from cellfm_nb.view.selection import Selection

SPACING = (0.25, 0.1, 0.1)


def some_tracks(n=30, frames=12, seed=3):
    rng = np.random.default_rng(seed)
    start = rng.uniform(5, 60, (n, 3))
    rows = [dict(track_id=k, frame=f, **dict(zip("zyx", start[k] + f * 0.4 + rng.normal(size=3), strict=True)))
            for k in range(n) for f in range(frames)]
    return pd.DataFrame(rows).sort_values(["frame", "track_id"], ignore_index=True)


def test_the_nearest_is_nearest_in_micrometre_of_its_frame():
    tracks = some_tracks()
    chosen = Selection(tracks, SPACING)
    rng = np.random.default_rng(0)
    voxel_nearest = 0
    for _ in range(200):
        frame, at = int(rng.integers(12)), rng.uniform(0, 65, 3)
        here = tracks[tracks["frame"] == frame]
        points = here[["z", "y", "x"]].to_numpy()
        _, k = cKDTree(points * SPACING).query(at * SPACING)
        row = chosen.select_nearest(frame, at)
        assert row == here.index[k]
        voxel_nearest += row != here.index[cKDTree(points).query(at)[1]]
    assert voxel_nearest > 5  # distance in voxels, the careless way, chooses other objects
    before = chosen.row
    assert chosen.select_nearest(99, (0, 0, 0)) is None and chosen.row == before


def test_every_view_but_the_one_that_chose_is_told_once():
    chosen, told = Selection(some_tracks(), SPACING), []
    for view in ("viewer", "chart", "table"):
        chosen.subscribe(view, lambda row, view=view: told.append((view, row)))
    chosen.select(4, by="chart")
    assert told == [("viewer", 4), ("table", 4)]
    chosen.select(4, by="table")  # the answer of a view that was told: nobody is told again
    assert len(told) == 2
    chosen.select(5)
    assert len(told) == 5


def test_views_that_answer_at_once_come_to_rest():
    chosen, calls = Selection(some_tracks(), SPACING), []

    def stubborn(view):
        def told(row):
            calls.append(view)
            chosen.select(row, by=view)
        return told

    for view in ("a", "b"):
        chosen.subscribe(view, stubborn(view))
    chosen.select(7, by="c")
    assert calls == ["a", "b"]


def test_a_selection_follows_its_track_and_says_what_it_is():
    tracks = some_tracks()
    chosen = Selection(tracks, SPACING)
    assert chosen.text() == "nothing chosen" and chosen.at_frame(3) is None
    chosen.select(0)
    row = chosen.at_frame(7)
    assert tracks.loc[row, ["track_id", "frame"]].tolist() == [tracks.loc[0, "track_id"], 7]
    assert chosen.at_frame(99) is None and "track 0, frame 0" in chosen.text()


def test_bad_tables_and_rows_are_refused():
    with pytest.raises(InputError, match="track table"):
        Selection(some_tracks().drop(columns="frame"), SPACING)
    with pytest.raises(InputError, match="no object"):
        Selection(some_tracks()[:0], SPACING)
    with pytest.raises(InputError, match="no such row"):
        Selection(some_tracks(), SPACING).select(10_000)


@pytest.fixture
def view(monkeypatch):
    pytest.importorskip("neuroglancer")
    monkeypatch.setattr(linked, "SETTLED_S", 0.01)
    movie = np.random.default_rng(0).integers(90, 200, (12, 8, 16, 16)).astype(np.uint16)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    made = linked.LinkedView({"movie": movie}, some_tracks(), SPACING, 2.0)
    yield made, lambda: loop.run_until_complete(asyncio.sleep(0.15))
    volume.close_viewers()
    loop.close()
    asyncio.set_event_loop(None)


def test_a_row_moves_the_viewer_and_the_viewer_chooses_a_row(view):
    made, rest = view
    tracks = made.selection.tracks
    made.table.row = 40
    rest()
    row = tracks.iloc[40]
    expected = [row["frame"] + 0.5, row["z"] + 0.5, row["y"] + 0.5, row["x"] + 0.5]
    assert np.allclose(made.viewer.state.position, expected)
    assert np.allclose([made.figure.data[1].z[0], made.figure.data[1].x[0]], [row["z"] * 0.25, row["x"] * 0.1])
    assert "track" in made.line.value and made.selection.row == 40  # the viewer's echo chose nothing else

    at = tracks.iloc[77]
    with made.viewer.txn() as state:  # as the browser does: from the server's thread, near an object of frame 2
        state.position = [at["frame"] + 0.5, at["z"] + 0.6, at["y"] + 0.6, at["x"] + 0.4]
    rest()
    assert made.selection.row == 77 == made.table.row
    assert made.viewer.state.position[1] == pytest.approx(at["z"] + 0.6)  # it stays where the person put it
    ring = made.viewer.state.layers["chosen"].annotations[0].point
    assert np.allclose(ring, [at["frame"] + 0.5, at["z"] + 0.5, at["y"] + 0.5, at["x"] + 0.5])

    with made.viewer.txn() as state:
        state.cross_section_scale = 3.0  # a zoom is no choice
    rest()
    assert made.selection.row == 77


def test_a_click_on_a_track_chooses_the_row_it_shows(view):
    made, rest = view
    order = made.selection.tracks.sort_values(["track_id", "frame"])
    point = int(np.flatnonzero(made.point_rows == order.index[30])[0])
    made._clicked([point])
    rest()
    assert made.selection.row == order.index[30] == made.table.row
    made._clicked([int(np.flatnonzero(made.point_rows < 0)[0])])  # between two tracks there is nothing to click
    assert made.selection.row == order.index[30]


def test_points_of_the_chart_lie_where_their_rows_say():
    tracks = some_tracks()
    trace, rows = explore_tracks.path_trace(tracks, SPACING)
    shown = rows >= 0
    at = np.column_stack([trace.z, trace.y, trace.x])[shown]
    assert np.allclose(at, tracks.loc[rows[shown], ["z", "y", "x"]] * SPACING)
    assert sorted(rows[shown]) == list(range(len(tracks))) and (~shown).sum() == tracks["track_id"].nunique() - 1
    colours = np.array(trace.line.color)[shown]
    assert all(c == marks.track_colour(k) for c, k in zip(colours, tracks.loc[rows[shown], "track_id"], strict=True))


def test_too_many_tracks_are_thinned_whole_and_said():
    tracks = some_tracks(n=400)
    shown, told = marks.thinned(tracks, 1000)
    assert len(shown) <= 1000 and told == f"{shown['track_id'].nunique()} of 400 tracks"
    assert (shown.groupby("track_id").size() == 12).all()
    assert marks.thinned(tracks, 10_000)[1] == ""
