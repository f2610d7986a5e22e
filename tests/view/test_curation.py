"""The gallery of frames: every click goes to the file, and whatever is shown comes from it."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cellfm_nb.curate.decisions import Decisions, apply_decisions
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.provenance import outside_digest
from cellfm_nb.view import desk
from cellfm_nb.view.curation import curation_gallery, gallery_figure

N = 6


@pytest.fixture
def quality():
    return pd.DataFrame({"frame": range(N), "snr": [5.0, 9, 7, 8, 6, 4], "by": "rule", "reason": [""] * 5 + ["dark"],
                         "verdict": ["accept"] * 3 + ["unsure", "accept", "reject"]})


@pytest.fixture
def movie(tmp_path):
    frames = np.random.default_rng(0).poisson(50, (N, 4, 12, 20)).astype(np.uint16)
    Movie.from_array(frames, spacing_um=(0.3, 0.1, 0.1)).save(tmp_path / "cell.ome.zarr")
    return tmp_path / "cell.ome.zarr"


@pytest.fixture
def looked_at(monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(desk, "headless", lambda: False)


def test_clicks_are_decisions_on_disk(movie, quality, tmp_path, looked_at):
    path = tmp_path / "decisions.csv"
    gallery = curation_gallery(movie, quality, path, "ann")
    assert gallery.order == [1, 2, 4, 0, 3, 5] and gallery.frame == 1  # accepted by falling snr, doubtful, rejected
    gallery.widgets["reason"].value = "a bubble, big"
    gallery.widgets["reject"].click()
    assert gallery.widgets["reason"].value == "" and gallery.frame == 2
    (line,) = Decisions(path).log
    assert (line.frame, line.verdict, line.reason, line.reader) == (1, "reject", "a bubble, big", "ann")
    assert line.digest == outside_digest(movie)
    for verdict in ("accept", "unsure"):
        gallery.widgets[verdict].click()
    gallery.widgets["undo"].click()
    assert gallery.frame == 4 and gallery.said == {1: "reject", 2: "accept"}
    again = curation_gallery(movie, quality, path, "ann")  # a new kernel
    assert again.said == gallery.said and again.frame == 4  # and goes on where the last one stopped
    table = apply_decisions(quality, path, movie=outside_digest(movie))
    assert table.by[1] == "ann" and table.verdict[1] == "reject"


def test_going_and_filtering_lose_nothing(movie, quality, tmp_path, looked_at):
    """Complaint 14: the flags of other categories are there when one comes back."""
    gallery = curation_gallery(movie, quality, tmp_path / "d.csv", "ann")
    gallery.widgets["next"].click()
    gallery.widgets["previous"].click()
    gallery.widgets["previous"].click()
    assert gallery.frame == 5  # round the end
    gallery.widgets["show"].value = "unsure"
    assert gallery.shown() == [3] and gallery.frame == 3
    gallery.widgets["accept"].click()
    assert gallery.frame is None and "Nothing to show" in gallery.widgets["caption"].value
    assert gallery.widgets["image"].layout.visibility == "hidden"
    gallery.widgets["accept"].click()  # nobody is there to be decided on
    assert len(gallery.book.log) == 1
    gallery.widgets["show"].value = "undecided"
    assert gallery.shown() == [1, 2, 4, 0, 5] and gallery.said == {3: "accept"}
    while gallery.frame is not None:
        gallery.widgets["accept"].click()
    gallery.widgets["show"].value = "all"
    assert gallery.said == dict.fromkeys(range(N), "accept") and "6 of 6 decided" in gallery.caption()


def test_the_picture_is_the_frames_projection(movie, quality, tmp_path, looked_at):
    gallery = curation_gallery(movie, quality, tmp_path / "d.csv", "ann")
    shown = np.asarray(Image.open(io.BytesIO(gallery.widgets["image"].value)))
    truth = Movie.open(movie).frame(1).max(0)
    assert shown.shape == (288, 480)  # 24 times as large
    once = shown[12::24, 12::24][:10]  # above the scale bar
    assert np.corrcoef(once.ravel(), truth[:10].ravel())[0, 1] > 0.98
    bar = shown[276, 10:]  # 0.5 um are five voxels of 0.1 um
    assert (bar[:120] == 255).sum() >= 118 and bar[122] < 255
    assert "application/vnd.jupyter.widget-view+json" in gallery._repr_mimebundle_()


def test_blind_the_rule_is_hidden_and_the_order_is_the_readers_own(movie, quality, tmp_path, looked_at):
    ann, bob = (curation_gallery(movie, quality, tmp_path / "d.csv", r, blind=True) for r in ("ann", "bob"))
    assert sorted(ann.order) == list(range(N)) and ann.order != bob.order
    assert ann.order == curation_gallery(movie, quality, tmp_path / "d.csv", "ann", blind=True).order
    for _ in range(N):
        for word in ("rule", "snr", "dark", "Frame"):
            assert word not in ann.widgets["caption"].value
        ann.widgets["next"].click()
    assert ann.shown("unsure") == []  # the rule's doubt would be a hint


def test_what_cant_be_written_is_said_and_kept(movie, quality, tmp_path, looked_at, monkeypatch):
    gallery = curation_gallery(movie, quality, tmp_path / "d.csv", "<b>ann</b>")
    assert "<b>" not in gallery.widgets["caption"].value

    def full(self, decision):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Decisions, "_write", full)
    gallery.widgets["reason"].value = "blurred"
    gallery.widgets["reject"].click()
    assert "No space left" in gallery.widgets["message"].value and gallery.frame == 1
    assert gallery.widgets["reason"].value == "blurred"  # not lost


def test_headless_it_holds_the_state_and_the_figure_shows_it(movie, quality, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFM_HEADLESS", "1")
    gallery = curation_gallery(movie, quality, tmp_path / "d.csv", "ann")
    assert gallery.widgets == {} and list(gallery._repr_mimebundle_()) == ["text/plain"] and "0 of 6" in repr(gallery)
    gallery.decide("reject", "blurred")
    assert gallery.said == {1: "reject"}
    table = apply_decisions(quality, tmp_path / "d.csv")
    figure = gallery_figure(movie, table, n=4)
    titles = [ax.get_title(loc) for ax in figure.axes for loc in ("left",)]
    assert len(titles) == 4 and titles[0] == "2: accept" and titles[-1].endswith("reject")
    assert "ann, rule" in figure._supxlabel.get_text() and len(figure._repr_png_()) > 1000
    assert "No frame" in gallery_figure(movie, table[:0]).axes[0].texts[0].get_text()


def test_projections_need_a_digest_and_a_reader_a_name(movie, quality, tmp_path):
    pictures = np.zeros((N, 8, 8))
    with pytest.raises(InputError, match="digest"):
        curation_gallery(pictures, quality, tmp_path / "d.csv", "ann")
    with pytest.raises(InputError, match="Who decides"):
        curation_gallery(movie, quality, tmp_path / "d.csv", "  ")
    assert curation_gallery(pictures, quality, tmp_path / "d.csv", "ann", digest="d").frame == 1


def test_a_frame_that_can_t_be_read_is_black_and_never_another_frame(tmp_path):
    from cellfm_nb.view.curation import projector

    frames = np.random.default_rng(0).integers(90, 200, (3, 6, 40, 40)).astype(np.uint16)
    Movie.from_array(frames, spacing_um=(0.25, 0.1, 0.1)).save(tmp_path / "m.ome.zarr")
    files = (p for p in sorted((tmp_path / "m.ome.zarr" / "0").rglob("*")) if p.is_file())
    chunk = next(p for p in files if "c/1/" in p.as_posix())
    chunk.write_bytes(chunk.read_bytes()[:20])
    look = projector(tmp_path / "m.ome.zarr")
    assert np.array_equal(look(0), frames[0].max(0)) and not look(1).any() and np.array_equal(look(2), frames[2].max(0))
