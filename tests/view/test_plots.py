"""Every picture on normal, tiny, constant and empty input; images in physical proportions."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cellfm_nb.view import plots
from cellfm_nb.view.canvas import VIEWS, project
from cellfm_nb.view.charts import common_bins
from cellfm_nb.view.style import PALETTE, contrast, label_colours, nice_length

SPACING = (0.25, 0.1, 0.1)
RNG = np.random.default_rng(0)
VOLUME = RNG.poisson(100, (8, 20, 30)).astype(np.uint16)
TRACKS = pd.DataFrame([dict(track_id=k, frame=f, z=4.0, y=3.0 + k, x=5.0 + f) for k in range(3) for f in range(5)])
LOG = pd.DataFrame({"step": range(50), "dino": np.linspace(8, 2, 50), "koleo": np.linspace(1, -1, 50)})
EVENTS = pd.DataFrame({"kind": ["split", "merge"], "frame": [3, 7], "status": ["candidate", "rejected"]})

ODD_VOLUMES = {
    "normal": VOLUME, "one voxel": VOLUME[:1, :1, :1], "one plane": VOLUME[0], "constant": np.full((3, 4, 5), 7.0),
    "empty": np.zeros((0, 4, 5)), "nan": np.full((2, 3, 4), np.nan), "bool": VOLUME > 100,
    "float16": VOLUME.astype(np.float16),
}  # fmt: skip


def draws(figure):
    assert isinstance(figure, Figure)
    assert figure._repr_png_()[:4] == b"\x89PNG"
    return figure


@pytest.mark.parametrize("name", ODD_VOLUMES)
def test_pictures_of_any_volume(name):
    volume = ODD_VOLUMES[name]
    draws(plots.ortho(volume, SPACING, title=name))
    draws(plots.slices({"a": volume, "b": volume}, SPACING, z=100))
    draws(plots.gallery([volume] * 3, titles=["x"], ncols=2))
    draws(plots.tracks(TRACKS, SPACING, volume=volume))
    draws(plots.tracks(TRACKS[:0], SPACING, volume=volume))


def test_pictures_of_nothing():
    nothing = [plots.slices({}, SPACING), plots.gallery([], ncols=0), plots.tracks(TRACKS[:0], SPACING),
               plots.histogram({}, "x"), plots.histogram({"a": []}, "x"), plots.curves(LOG[:0], "step", ["dino"]),
               plots.curves(LOG, "step", ["absent"]), plots.bars(pd.DataFrame()), plots.scatter([], []),
               plots.timeline(EVENTS[:0]), plots.timeline(EVENTS[:0], EVENTS[:0]),
               plots.rgb_volume(np.zeros((0, 1, 1, 3)), SPACING),
               plots.rgb_planes([], [], SPACING)]  # fmt: skip
    for figure in nothing:
        draws(figure)


def test_charts_of_odd_numbers():
    odd = {"constant": np.ones(9), "one": [3], "not finite": [np.nan, np.inf, 1.0], "none finite": [np.nan]}
    draws(plots.histogram(odd, "x", log=False, lines={"here": 1.0}))
    draws(plots.curves(LOG[:1], "step", ["dino"], log="xy"))
    draws(plots.curves(LOG.assign(dino=-1.0), "step", ["dino"], log=True))
    draws(plots.curves(LOG.assign(dino=np.nan), "step", ["dino"]))
    draws(plots.bars(pd.DataFrame({"a": [np.nan], "b": ["word"]})))
    draws(plots.scatter([1, np.nan], [1, 2], c=[np.nan, np.nan]))
    draws(plots.timeline(EVENTS, EVENTS[:0]))


def test_the_ortho_view_keeps_physical_proportions():
    figure = draws(plots.ortho(VOLUME, SPACING))
    boxes = {}
    for ax, (down, right) in zip(figure.axes, VIEWS.values(), strict=True):
        assert ax.get_aspect() == 1.0
        (left, right_end), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        assert right_end - left == pytest.approx(VOLUME.shape[right] * SPACING[right])
        assert bottom - top == pytest.approx(VOLUME.shape[down] * SPACING[down])
        size = ax.get_window_extent()
        boxes[down, right] = (size.width / (right_end - left), size.height / (bottom - top))  # pixels per um
    scales = [s for pair in boxes.values() for s in pair]
    assert max(scales) / min(scales) < 1.02  # one scale for all three panels, both ways


def test_projections_put_a_voxel_where_it_is():
    volume = np.zeros((4, 5, 6))
    volume[1, 2, 3] = 1
    for down, right in VIEWS.values():
        found = np.argwhere(project(volume, down, right))[0]
        assert tuple(found) == ((1, 2, 3)[down], (1, 2, 3)[right])


def test_points_fall_on_their_voxels():
    figure = plots.ortho(VOLUME, SPACING, points=np.array([[2, 3, 4]]))
    circles = figure.axes[0].collections[0].get_offsets()
    assert np.allclose(circles, [[4 * 0.1, 3 * 0.1]])
    left, *_ = figure.axes[0].images[0].get_extent()
    assert left == pytest.approx(-0.05)  # the centre of voxel 0 is at 0


def test_a_scale_bar_has_the_length_it_says():
    ax = plots.ortho(VOLUME, SPACING).axes[0]
    bar = ax.lines[0].get_xdata()
    assert f"{bar[1] - bar[0]:g} µm" in [t.get_text() for t in ax.texts]
    assert [nice_length(x) for x in (1, 9, 48, 0.9)] == pytest.approx([0.2, 2, 10, 0.2])


def test_pictures_leave_nothing_open_in_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.ortho(VOLUME, SPACING)
    plots.bars(LOG[["dino"]][:3])
    assert plt.get_fignums() == before


def test_contrast_is_a_range_whatever_the_image():
    for image in ODD_VOLUMES.values():
        low, high = contrast(image)
        assert np.isfinite([low, high]).all() and high > low
    spike = np.zeros(100_000)
    spike[0] = 65_535  # one hot voxel sets the range only where there is nothing else
    assert contrast(RNG.normal(100, 5, 100_000) + spike)[1] < 130


def test_an_id_keeps_its_colour_and_background_is_transparent():
    colours = label_colours(np.array([0, 5, 1005, 5], np.uint32))
    assert colours[0, 3] == 0 and (colours[1] == colours[3]).all()
    assert len({tuple(c) for c in label_colours(np.arange(1, 19))}) == 18


def test_the_palette_is_colour_blind_safe():
    """Simulated deuteranopia (Machado et al. 2009, severity 1) leaves all eight colours apart; matplotlib's default
    red, green and brown, the usual careless choice, fail the same check."""
    machado = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]])

    def apart(colours):
        rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ machado.T, 0, 1) ** (1 / 2.2)
        return min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])

    assert apart(PALETTE) > 0.15
    assert apart(("#d62728", "#2ca02c", "#8c564b")) < 0.15


def test_whole_numbers_get_a_bin_each():
    assert np.allclose(common_bins(np.array([1.0, 2, 2, 5])), [0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
    assert np.allclose(common_bins(np.array([2.0, 4, 40]))[:3], [1, 3, 5])
    assert len(common_bins(RNG.normal(size=1000))) == 101
    assert np.allclose(common_bins(np.array([7.0, 7])), [6.5, 7.5])


def test_a_scatter_says_that_it_is_a_subset():
    figure = plots.scatter(np.arange(50_000), np.arange(50_000))
    assert "20,000 of 50,000" in figure.axes[0].get_title(loc="left")
    assert len(figure.axes[0].collections[0].get_offsets()) == 20_000


def test_equal_pictures_have_equal_fingerprints():
    a, b, c = (plots.curves(LOG * k, "step", ["dino"]) for k in (1, 1, 2))
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_a_plane_of_tokens_stands_beneath_all_that_it_sees():
    image = np.zeros((8, 16, 16), np.float32)
    image[4, 3, 5] = 9  # the first plane of the third of four tokens along z: no middle plane of any token
    tokens = np.zeros((4, 2, 2, 3), np.float32)
    axes = plots.rgb_volume(tokens, (0.5, 0.8, 0.8), background=image).axes
    shown = [np.asarray(ax.images[0].get_array()) for ax in axes]
    assert [a.max() for a in shown[:3]] == [0, 9, 0] and shown[3].shape == (2, 2, 3)
    assert [ax.get_title(loc="left")[4:14] for ax in axes[:3]] == ["0.5 to 1.0", "1.0 to 1.5", "1.5 to 2.0"]
