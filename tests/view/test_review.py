"""The review of events: every click is in events.csv and in the file it can be rebuilt from."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.simulate import SceneConfig, simulate_tracks
from cellfm_nb.track import apply_review, event_keys, not_rejected, read_events, write_linking
from cellfm_nb.track.link import EVENT_COLUMNS
from cellfm_nb.view import desk, review

SPACING = (0.25, 0.1, 0.1)


@pytest.fixture
def table():
    rows = [(0, "split", 4, 1.0, 2.0, 2.0, "1", "2;3", 0.9, "candidate"),
            (1, "merge", 0, 1.0, 0.1, 3.9, "4;5", "6", 0.2, "candidate"),
            (2, "split", 9, 1.0, 3.0, 1.0, "7", "8;9", 0.6, "candidate")]
    return pd.DataFrame(rows, columns=EVENT_COLUMNS)


@pytest.fixture
def tracks():
    rows = [(1, 3, 1.0, 2.0, 2.0), (2, 4, 1.0, 2.0, 1.9), (3, 4, 1.0, 2.0, 2.1)]
    return pd.DataFrame(rows, columns=["track_id", "frame", "z_um", "y_um", "x_um"])


@pytest.fixture
def run(tmp_path, table):
    frames = np.random.default_rng(0).poisson(50, (10, 8, 40, 40)).astype(np.uint16)
    frames[3, 4, 20, 20] = 4000  # one before the split,
    frames[4, 4, 20, [19, 21]] = 2000  # two from it on
    Movie.from_array(frames, spacing_um=SPACING, dt_s=2.0).save(tmp_path / "cell.ome.zarr")
    table.to_csv(tmp_path / "events.csv", index=False)
    return tmp_path


def made(run, tracks, reader="ann"):
    return review.event_review(run / "cell.ome.zarr", run / "events.csv", run / "d.csv", reader, tracks)


@pytest.fixture
def looked_at(monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(desk, "headless", lambda: False)


def test_clicks_and_keys_write_events_csv(run, tracks, looked_at):
    queue = made(run, tracks)
    assert [queue.rows[k].event_id for k in queue.order] == [1, 2, 0]  # the least sure first
    queue.widgets["accept"].click()
    assert read_events(run / "events.csv")["status"].tolist() == ["candidate", "confirmed", "candidate"]
    queue.widgets["keys"]._handle_custom_msg({"action": "reject"}, [])  # what the page sends for the key r
    assert read_events(run / "events.csv")["status"].tolist() == ["candidate", "confirmed", "rejected"]
    queue.widgets["keys"]._handle_custom_msg({"action": "undo"}, [])
    queue.widgets["keys"]._handle_custom_msg({"action": "no such"}, [])
    assert read_events(run / "events.csv")["status"].tolist() == ["candidate", "confirmed", "candidate"]
    assert queue.rows[queue.here].event_id == 2 and "1 of 3 decided by ann" in queue.widgets["caption"].value
    again = made(run, tracks)  # a new kernel
    assert again.said == queue.said and again.here == queue.here
    assert "confirm" in again.widgets["accept"].description
    assert not list(run.glob(".partial*"))


def test_what_was_said_survives_another_linking(run, tracks, table):
    made(run, tracks).decide("reject", "two that pass")
    renumbered = table.iloc[[2, 1]].assign(event_id=[0, 1], parents=["70", "40;50"], children=["80;90", "60"])
    renumbered.to_csv(run / "events.csv", index=False)  # fewer events, other numbers, no status
    again = made(run, tracks)
    assert again.events["status"].tolist() == ["candidate", "rejected"] and len(again.said) == 1
    assert apply_review(renumbered, review.decided(run / "d.csv"))["status"].tolist() == ["candidate", "rejected"]
    moved = renumbered.assign(x_um=renumbered["x_um"] + 0.01)  # another event at nearly that place: not the same
    assert set(apply_review(moved, review.decided(run / "d.csv"))["status"]) == {"candidate"}


def test_readers_who_disagree_make_it_unsure(run, tracks):
    made(run, tracks).decide("accept")
    made(run, tracks, "bob").decide("reject")
    assert made(run, tracks).events["status"].tolist() == ["candidate", "unsure", "candidate"]


def test_linking_takes_what_was_said(tmp_path):
    scene = simulate_tracks(SceneConfig(shape=(10, 40, 144, 144), split_rate_s=0.02), seed=4)
    objects = scene.positions[scene.positions["visible"]].drop(columns="track_id")
    objects.to_parquet(tmp_path / "o.parquet")
    paths = [tmp_path / n for n in ("tracks.csv", "events.csv", "scales.csv", "scales.json")]
    write_linking(*paths, tmp_path / "o.parquet", SPACING, 2.0)
    found = read_events(paths[1])
    assert len(found) and set(found["status"]) == {"candidate"}
    write_linking(*paths, tmp_path / "o.parquet", SPACING, 2.0, reviewed={event_keys(found)[0]: "confirmed"})
    pd.testing.assert_frame_equal(read_events(paths[1]).drop(columns="status"), found.drop(columns="status"))
    said = read_events(paths[1])
    assert said["status"].iloc[0] == "confirmed" and len(not_rejected(said)) == len(found)
    before = pd.read_csv(paths[0])
    split = int(np.flatnonzero(found["kind"] == "split")[0])
    write_linking(*paths, tmp_path / "o.parquet", SPACING, 2.0, reviewed={event_keys(found)[split]: "rejected"})
    after, children = pd.read_csv(paths[0]), [int(c) for c in found["children"][split].split(";")]
    mine = before["track_id"].isin(children)
    assert (before.loc[mine, "parent_id"] >= 0).all() and (after.loc[mine, "parent_id"] == -1).all()
    pd.testing.assert_frame_equal(after[~mine], before[~mine])
    assert len(not_rejected(read_events(paths[1]))) == len(found) - 1


def test_the_film_shows_the_event_and_loops(run, tracks, looked_at):
    queue = made(run, tracks)
    row = queue.rows[queue.order[-1]]
    clip = review.cut(queue.movie, row)
    assert clip.frames == [1, 2, 3, 4, 5, 6, 7] and clip.images.shape[1:] == (31, 31) and clip.corner == (5, 5)
    peaks = [np.argwhere(image > 1000) + clip.corner for image in clip.images]
    assert peaks[2].tolist() == [[20, 20]] and peaks[3].tolist() == [[20, 19], [20, 21]] and len(peaks[4]) == 0
    early = review.cut(queue.movie, queue.rows[queue.order[0]])  # at the first frame and the upper border
    assert early.frames == [0, 1, 2, 3] and early.corner == (0, 9) and early.images.shape[1:] == (31, 31)
    while queue.here != queue.order[-1]:
        queue.widgets["next"].click()
    moving = Image.open(io.BytesIO(queue.widgets["film"].value))
    assert moving.is_animated and moving.n_frames == 7 and moving.info["loop"] == 0
    assert Image.open(io.BytesIO(queue.widgets["image"].value)).width > 700


def test_headless_the_figure_stands_in(run, tracks, table, monkeypatch):
    monkeypatch.setenv("CELLFM_HEADLESS", "1")
    queue = made(run, tracks)
    assert queue.widgets == {} and list(queue._repr_mimebundle_()) == ["text/plain"] and "0 of 3" in repr(queue)
    figure = review.event_figure(queue.movie, queue.events, tracks, n=2)
    assert len(figure.axes) == 14 and "2 of 3 events" in figure._supxlabel.get_text()
    assert sum(ax.axison for ax in figure.axes[:7]) == 4  # three before the movie begins
    whole = review.event_figure(queue.movie, table[:1], tracks)
    circled = [len(ax.collections[0].get_offsets()) if ax.collections else 0 for ax in whole.axes]
    assert circled == [0, 0, 1, 2, 0, 0, 0]  # the parent before, the children after
    assert "No split" in review.event_figure(queue.movie, table[:0], tracks).axes[0].texts[0].get_text()


def test_nothing_to_review_and_two_of_the_same(run, tracks, table, looked_at):
    table[:0].to_csv(run / "events.csv", index=False)
    assert "Nothing to show" in made(run, tracks).widgets["caption"].value
    pd.concat([table, table[:1]]).to_csv(run / "events.csv", index=False)
    with pytest.raises(InputError, match="Two events are the same"):
        made(run, tracks)


def test_a_full_disk_leaves_events_csv_as_it_was(run, tracks, looked_at, monkeypatch):
    queue, before = made(run, tracks), (run / "events.csv").read_bytes()

    def full(path, table):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(review, "write_csv", full)
    queue.widgets["accept"].click()
    assert "No space left" in queue.widgets["message"].value and (run / "events.csv").read_bytes() == before
    monkeypatch.undo()
    assert made(run, tracks).events["status"].tolist()[1] == "confirmed"  # said is said: the next one writes it
