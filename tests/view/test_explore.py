"""Charts to explore: what they carry, what they leave out and say so, and their still twins."""

import json

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from cellfm_nb.view import explore, explore_tracks, lineage, preview
from cellfm_nb.view.charts import MAX_POINTS
from cellfm_nb.view.preview_stages import preview_crops, preview_seeds

pytest.importorskip("plotly")
SPACING = (0.25, 0.1, 0.1)
RNG = np.random.default_rng(0)
SPAN = {1: (0, 4), 2: (5, 9), 3: (5, 7), 4: (0, 7), 5: (8, 9), 6: (0, 9), 7: (0, 3), 8: (4, 9), 9: (4, 9)}
TRACKS = pd.DataFrame([dict(track_id=k, frame=f, z=k, y=2.0 * k, x=f) for k, (a, b) in SPAN.items()
                       for f in range(a, b + 1)])
EVENTS = pd.DataFrame([dict(kind="split", frame=5, parents="1", children="2;3", score=0.9, status="candidate"),
                       dict(kind="merge", frame=8, parents="3;4", children="5", score=0.8, status="confirmed"),
                       dict(kind="split", frame=4, parents="7", children="8;9", score=0.4, status="rejected")])


def charts():
    table = pd.DataFrame({"snr": [1, 2, 4], "F1": [0.4, 0.8, np.nan], "recall": [0.3, 0.9, 1.0]})
    yield explore.histogram({"a": RNG.normal(size=999), "b": [np.nan]}, "norm", lines={"here": 1.0})
    yield explore.curves(table, "snr", ["F1", "recall", "absent"], log="x")
    yield explore.scatter(RNG.normal(size=50), RNG.normal(size=50), c=RNG.normal(size=50))
    yield explore.rgb_slices({"clean": RNG.random((3, 4, 5, 3)), "hurt": RNG.random((3, 4, 5, 3))}, SPACING)
    yield explore_tracks.tracks_3d(TRACKS, SPACING)
    yield explore_tracks.timeline(EVENTS, EVENTS[:1])
    yield explore_tracks.timeline(EVENTS[:0])
    yield explore_tracks.lineages(TRACKS, EVENTS)
    yield explore_tracks.lineages(TRACKS, EVENTS[:0])


def test_every_chart_has_a_still_twin_and_headless_nothing_else(monkeypatch):
    for chart in charts():
        monkeypatch.setattr(explore, "headless", lambda: True)
        assert set(chart._repr_mimebundle_()) == {"image/png", "text/plain"}
        monkeypatch.setattr(explore, "headless", lambda: False)
        seen = chart._repr_mimebundle_()
        assert "image/png" not in seen  # Plotly's own renderer would show it in place of the chart
        assert "image/jpeg" in seen and json.dumps(seen[explore.MIME])
        assert len(chart.fingerprint) == 64


def test_pages_carry_bins_and_not_values():
    values = RNG.normal(size=200_000)
    figure = explore.histogram({"a": values}, "norm", log=False).figure
    assert figure.data[0].y.sum() == len(values) and len(figure.data[0].y) <= 100
    assert len(figure.to_json()) < 20_000


def test_a_scatter_is_capped_and_says_so():
    n = 3 * MAX_POINTS
    figure = explore.scatter(np.arange(n), np.arange(n)).figure
    assert len(figure.data[0].x) == MAX_POINTS and figure.data[0].x[-1] == n - 1
    assert f"{MAX_POINTS:,} of {n:,}" in figure.layout.title.text
    assert explore.scatter([1, 2], [1, 2]).figure.layout.title.text in ("", None)


def test_colour_slices_show_one_plane_at_a_time():
    figure = explore.rgb_slices({"a": RNG.random((4, 3, 2, 3)), "b": RNG.random((4, 3, 2, 3))}, SPACING, z=3).figure
    assert [t.visible for t in figure.data] == [False] * 6 + [True] * 2
    for k, step in enumerate(figure.layout.sliders[0].steps):
        assert step.args[0]["visible"] == [t // 2 == k for t in range(8)]
    assert (figure.data[0].dy, figure.data[0].dx) == SPACING[1:]


def test_families_are_the_connected_parts_of_the_events():
    """Against networkx, on random events; a rejected event joins nothing."""
    tree = lineage.lineage(TRACKS, EVENTS)
    assert sorted(tree.spans["track_id"]) == [1, 2, 3, 4, 5]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pairs = [("split", int(a), int(b)) for a, b in rng.integers(0, 40, (25, 2)) if a != b]
        graph = nx.Graph([pair[1:] for pair in pairs])
        assert sorted(map(sorted, lineage.families(pairs))) == sorted(map(sorted, nx.connected_components(graph)))


def test_lineage_lines_lie_where_the_tracks_are():
    tree = lineage.lineage(TRACKS, EVENTS)
    for row in tree.spans.itertuples():
        assert (row.first, row.last) == SPAN[row.track_id]
    assert len(set(tree.spans["height"])) == len(tree.spans)
    height = tree.spans.set_index("track_id")["height"]
    for row in tree.joins.itertuples():
        assert (row.y0, row.y1) == (height[row.parent], height[row.child])
        assert (row.x0, row.x1) == (SPAN[row.parent][1], SPAN[row.child][0])
    assert len(tree.joins) == 4 and tree.told == ""
    two = pd.concat([EVENTS[:2], EVENTS[2:].assign(status="candidate")])
    assert lineage.lineage(TRACKS, two, most=6).told == "1 of 2 families, the largest"


@pytest.fixture
def looking(monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(preview, "headless", lambda: False)


def test_a_preview_follows_its_sliders_and_an_error_keeps_the_last_picture(looking):
    crop = RNG.normal(size=(6, 30, 40))

    def above(crop, level):
        if level > 4:
            raise ValueError("too high")
        return np.argwhere(crop > level)

    shown = preview.preview(above, crop, SPACING, level=(0.0, 5.0, 2.5))
    first = shown.widgets["image"].value
    shown.widgets["level"].value = 2.0
    assert shown.widgets["image"].value != first and len(shown.result) == (crop > 2).sum()
    assert f"{(crop > 2).sum()} found" in shown.widgets["text"].value
    kept = shown.widgets["image"].value
    shown.widgets["level"].value = 4.5
    assert shown.widgets["image"].value == kept and "too high" in shown.widgets["text"].value
    assert "image/png" in shown._repr_mimebundle_()


def test_headless_a_preview_is_its_still_picture_at_the_defaults(monkeypatch):
    monkeypatch.setattr(preview, "headless", lambda: True)
    shown = preview.preview(lambda crop, level: np.argwhere(crop > level), RNG.normal(size=(4, 9, 9)), SPACING,
                            level=(0.0, 5.0, 2.0))
    assert set(shown._repr_mimebundle_()) == {"image/png", "text/plain"} and shown.widgets == {}


def test_the_threshold_and_seeds_preview_only_loses_objects_as_they_rise(looking):
    volume = RNG.normal(size=(10, 40, 40)).astype(np.float32)
    z, y, x = np.indices(volume.shape)
    for cz, cy, cx in ((5, 10, 10), (5, 10, 16), (4, 30, 25)):
        volume += 12 * np.exp(-((z - cz) ** 2 / 2 + (y - cy) ** 2 / 4 + (x - cx) ** 2 / 4))
    shown = preview_seeds(volume, SPACING, (0.3, 0.15, 0.15), threshold=6.0)
    count = lambda: len(np.unique(shown.result)) - 1  # noqa: E731
    assert count() == 3
    shown.widgets["seeds_apart_um"].value = shown.widgets["seeds_apart_um"].max
    assert count() == 2  # the two that are 0.6 um apart share a seed
    shown.widgets["threshold"].value = 3.0
    assert count() >= 2
    large = preview.small(np.zeros((100, 900, 800), np.uint8))
    assert large.size <= preview.MAX_VOXELS and preview.small(volume) is volume


def test_the_crops_preview_draws_boxes_inside_the_volume(looking):
    volume = np.abs(RNG.normal(size=(12, 48, 48))).astype(np.float32)
    volume[6, 20:24, 20:24] = 50
    shown = preview_crops(volume, SPACING, (6, 16, 16), n=5)
    first = shown.result.copy()
    shown.widgets["seed"].value = 3
    assert shown.result.shape == (5, 3) and (shown.result + (6, 16, 16) <= volume.shape).all()
    assert not np.array_equal(first, shown.result)
    assert len(shown.still().axes) == 3
