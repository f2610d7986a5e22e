"""Every picture of an image carries a scale bar of the right length, and none can be added without one."""

import ast
import inspect

import numpy as np
import pandas as pd
import pytest

from cellfm_nb.movie import Movie
from cellfm_nb.view import canvas, curation, images, paper, pixels, review

SPACING = (0.25, 0.1, 0.1)
VOLUME = np.random.default_rng(0).poisson(50, (6, 40, 60)).astype(np.uint16)
LABELS = (VOLUME > 60).astype(np.uint32)
RGB = np.random.default_rng(1).random((6, 40, 60, 3))
TRACKS = pd.DataFrame({"track_id": 1, "frame": range(5), "z_um": 0.5, "y_um": 2.0, "x_um": np.linspace(1, 5, 5)})
EVENTS = pd.DataFrame([(0, "split", 1, 0.5, 2.0, 3.0, "1", "2;3", 0.9, "candidate")],
                      columns=["event_id", "kind", "frame", "z_um", "y_um", "x_um", "parents", "children", "score",
                               "status"])
MOVIE = Movie.from_array(np.stack([VOLUME] * 3), spacing_um=SPACING)
QUALITY = pd.DataFrame({"frame": [0, 1], "snr": 5.0, "by": "rule", "reason": "", "verdict": "accept"})
PICTURES = {
    "ortho": lambda: images.ortho(VOLUME, SPACING, labels=LABELS),
    "slices": lambda: images.slices({"a": VOLUME, "b": LABELS}, SPACING),
    "rgb_volume": lambda: images.rgb_volume(RGB, SPACING, VOLUME),
    "rgb_planes": lambda: images.rgb_planes([RGB[0]], ["a"], SPACING),
    "gallery": lambda: images.gallery([VOLUME, VOLUME], spacing_um=SPACING),
    "tracks": lambda: images.tracks(TRACKS, SPACING, VOLUME),
    "overview": lambda: paper.overview(VOLUME, SPACING, RGB, SPACING, LABELS, TRACKS),
    "gallery_figure": lambda: curation.gallery_figure(MOVIE, QUALITY),
    "event_figure": lambda: review.event_figure(MOVIE, EVENTS, TRACKS),
}


def bars(figure, unit):
    """Return (said, drawn) lengths of the bars of a figure: a thick line, and the text over it."""
    found = []
    for ax in figure.axes:
        texts = [t.get_text() for t in ax.texts if t.get_text().endswith(f" {unit}")]
        lines = [np.ptp(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 3]
        found += [(float(t.split()[0]), d) for t, d in zip(texts, lines, strict=True)]
    return found


@pytest.mark.parametrize("name", PICTURES)
def test_the_bar_is_as_long_as_it_says(name):
    found = bars(PICTURES[name](), "µm")
    assert found and all(said == pytest.approx(drawn) and 0.2 < said < 6 for said, drawn in found), found
    if name == "overview":
        assert len(found) == 4


def test_without_a_spacing_it_counts_voxels():
    assert bars(images.gallery([VOLUME]), "px") == [(20.0, 20.0)]
    plain = curation.gallery_figure([VOLUME.max(0)] * 2, QUALITY)
    assert bars(plain, "px") and not any("µm" in t.get_text() for ax in plain.axes for t in ax.texts)


@pytest.mark.parametrize("module", [images, paper, curation, review], ids=lambda m: m.__name__.rpartition(".")[2])
def test_who_draws_an_image_draws_a_bar(module):
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef):
            called = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            if "draw" in called:
                assert "scale_bar" in called and node.name in PICTURES, f"{node.name} draws an image without a bar"
    assert canvas.draw is module.draw


def test_pictures_of_pixels_carry_one_too():
    grey = np.asarray(pixels.still(VOLUME[0], 0, 1e9, SPACING))  # all black but the bar and its text
    rows = np.flatnonzero((grey == 255).sum(1) > 60)
    assert len(rows) == 3 or len(rows) == 4
    width = int((grey[rows[1]] == 255).sum())
    assert abs(width - 1.0 / 0.1 * 8) <= 2  # 1 um, voxels of 0.1 um, each 8 pixels
