"""The views in a real browser: a plain JupyterLab, and one under a hub's base URL behind jupyter-server-proxy."""

import re
import shutil
import time
from urllib.parse import urljoin

import numpy as np
import pandas as pd
import pytest

from browser.lab import Browser, Notebook, answers, connected_beyond, jupyter, pixels, wait_for

BOOKS = ("01", "02", "05", "07", "08")
SERVERS = {"plain": "/", "hub": "/user/alice/"}
ON_SCREEN = """plot => {  // where the points of the first trace are drawn, in pixels of the chart
  const scene = plot._fullLayout.scene._scene, { model, view, projection } = scene.glplot.cameraParams;
  const times = (m, v) => [0, 1, 2, 3].map(i => v.reduce((sum, value, j) => sum + m[4 * j + i] * value, 0));
  const { x, y, z } = plot._fullData[0], [sx, sy, sz] = scene.dataScale;
  const { clientWidth: w, clientHeight: h } = scene.container;
  return Array.from(x, (_, k) => times(projection, times(view, times(model, [x[k] * sx, y[k] * sy, z[k] * sz, 1]))))
    .filter(p => p.every(Number.isFinite)).map(p => [w * (0.5 + 0.5 * p[0] / p[3]), h * (0.5 - 0.5 * p[1] / p[3])]);
}"""
AFTER_CROPS = ("pretrain", "repair", "stream", "segment", "track", "figures", "executed", "many", "own", "real")


class Lab:
    """A server, a browser, and the five notebooks, run in it one after the other while the tests look at them."""

    def __init__(self, browser, kind, run, shots):
        self.browser, self.kind, self.run, self.shots = browser, kind, run, shots
        self.books = {number: Notebook(browser, number) for number in BOOKS}
        self.front = None

    def book(self, number):
        """Return a notebook all of whose cells ran."""
        self.front = self.books[number]
        failed = self.front.finish()
        assert not failed, failed
        return self.front

    def unrun(self, number):
        """Return a notebook of which nothing ran yet."""
        self.front = Notebook(self.browser, number, run=False)
        return self.front

    def leave(self):
        """Close the notebook in front."""
        if self.front:
            self.front.close()
        self.front = None

    def shot(self, place, name):
        place.screenshot(path=self.shots / f"{self.kind}-{name}.png")


@pytest.fixture(scope="module", params=SERVERS)
def lab(request, tmp_path_factory, finished_run, shots):
    play = pytest.importorskip("playwright.sync_api").sync_playwright
    folder, base = tmp_path_factory.mktemp(request.param), SERVERS[request.param]
    untrained = shutil.copytree(finished_run, folder / "untrained", ignore=shutil.ignore_patterns(*AFTER_CROPS))
    own = {"03": {"workspace": str(untrained)}}
    with jupyter(folder / "lab", finished_run, base, request.param == "hub", own) as address, play() as started:
        browser = Browser(started, folder)
        browser.open(address)
        yield Lab(browser, request.param, finished_run, shots)
        strangers = browser.strangers()
        print(f"{request.param}: JupyterLab weighs {browser.lab_bytes / 1e6:.1f} MB, with the notebooks and their "
              f"views {browser.bytes / 1e6:.1f} MB; page errors: {browser.complaints or 'none'}")
        browser.context.close()
    assert not strangers, f"asked beyond this machine: {strangers}"


@pytest.fixture(autouse=True)
def nobody_beyond(lab):
    """After each test neither server nor kernels nor browser are connected to another machine."""
    yield
    assert not connected_beyond()
    lab.leave()


def slide(place, steps=8):
    """Move the first slider of a place by keys."""
    handle = place.locator(".noUi-handle").first
    handle.focus()
    for _ in range(steps):
        handle.press("ArrowRight")


def shown(place):
    """Return a digest of the picture of a place; "" while one is just being replaced by the next."""
    return place.locator("img").first.evaluate("""async img => {
      try {
        const bytes = await (await fetch(img.src)).arrayBuffer();
        return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))).join();
      } catch { return ''; }
    }""")


def test_01_the_viewer_shows_the_movie_and_its_points(lab):
    book = lab.book("01")
    viewer = book.viewer("look-at-first-frame")
    lab.shot(viewer.place, "01-movie")
    changed, _ = viewer.drawn_by("points")
    assert 50 < changed.sum() < 0.2 * changed.size
    assert viewer.picture().std() > 10  # no black page
    stack = book.viewer("deskew-stack")
    if stack.layers() == ["deskewed", "raw"]:
        flat = stack.picture()
        stack.show("raw", True)
        assert (stack.picture() != flat).any(-1).mean() > 0.01
        stack.show("raw", False)
        stack.settle()
        lab.shot(stack.place, "01-stack")


def test_02_decisions_survive_a_restart_and_a_slider_moves_the_crops(lab):
    book = lab.book("02")
    file = lab.run / "curate" / "decisions.csv"
    said = lambda: pd.read_csv(file) if file.exists() else pd.DataFrame()  # noqa: E731
    gallery = book.cell("review-frames")
    before = len(said())
    gallery.get_by_role("button", name="accept", exact=True).click()
    wait_for(lambda: len(said()) == before + 1, 120, "accept is not on disk")
    gallery.get_by_role("button", name="reject", exact=True).click()
    wait_for(lambda: len(said()) == before + 2, 120, "reject is not on disk")
    lab.shot(gallery, "02-gallery")
    gallery.locator("img").first.click()
    gallery.page.keyboard.press("u")
    wait_for(lambda: len(said()) == before + 3, 120, "a key is not on disk")
    assert list(said()["verdict"].tail(3)) == ["accept", "reject", "unsure"]
    gallery.get_by_role("button", name="undo").click()
    wait_for(lambda: len(said()) == before + 4, 120, "undo is not on disk")
    kept = said()

    place = book.cell("try-crop-seeds")
    first = shown(place)
    slide(place, 1)
    wait_for(lambda: shown(place) not in ("", first), 120, "the picture does not follow the slider")
    lab.shot(place, "02-crops")

    book.restart()
    book.run_cells(["parameters", "injected-parameters", "open-workspace", "normalise-first-frame",
                    "judge-every-frame", "review-frames"])
    assert pd.read_csv(file).equals(kept)
    again = book.cell("review-frames")
    assert re.search(r"[1-9]\d* of \d+ decided", again.inner_text()), again.inner_text()


def test_03_learning_curves_grow_in_place(lab):
    book = lab.unrun("03")
    book.run_cells(["parameters", "injected-parameters", "open-workspace", "read-crops", "build-encoder",
                    "hold-out-truth", "train"], wait=False)
    place = book.cell("train")
    chart = place.locator(".js-plotly-plot").first
    chart.wait_for(timeout=120_000)
    chart.evaluate("plot => { plot.dataset.seen = 'once'; }")
    lengths = lambda: chart.evaluate("plot => (plot._fullData || []).map(t => (t.x || []).length)")  # noqa: E731
    first = wait_for(lambda: max(lengths(), default=0), 120, "no curve is drawn")
    size = lambda: [chart.bounding_box()[side] for side in ("width", "height")]  # noqa: E731
    had, before = size(), pixels(chart.screenshot())
    lab.shot(chart, "03-curves-begin")
    wait_for(lambda: max(lengths(), default=0) > first, 120, "the curves do not grow")
    assert chart.get_attribute("data-seen") == "once" and size() == had  # the same chart, nothing jumps
    after = pixels(chart.screenshot())
    assert place.locator(".js-plotly-plot").count() == 1 and after.shape == before.shape and (after != before).any()
    lab.shot(chart, "03-curves-grown")
    print(f"curves grew from {first} to {max(lengths())} steps")


def test_05_norms_and_colours_are_drawn(lab):
    book = lab.book("05")
    for name in ("look-at-norms", "paint-before-and-after", "scatter-components"):
        chart = book.cell(name).locator(".js-plotly-plot").first
        chart.scroll_into_view_if_needed()
        wait_for(lambda chart=chart: pixels(chart.screenshot()).std() > 3, 30, f"{name} is not drawn")
        lab.shot(chart, f"05-{name}")


def test_07_a_threshold_moves_the_outlines_and_labels_are_drawn(lab):
    book = lab.book("07")
    place = book.cell("try-a-threshold")
    first, said = shown(place), place.inner_text()
    slide(place)
    wait_for(lambda: shown(place) not in ("", first), 120, "the picture does not follow the slider")
    text = wait_for(lambda: re.search(r"(\d+) found in ([\d.]+) s", place.inner_text()), 10, "nothing is said")
    assert place.inner_text() != said
    print(f"preview: {text[0]}")
    lab.shot(place, "07-threshold")
    viewer = book.viewer("segment-movie")
    changed, colours = viewer.drawn_by("labels")
    assert 50 < changed.sum() < 0.2 * changed.size
    saturation = colours.max(1).astype(int) - colours.min(1)
    assert (saturation > 30).mean() > 0.5  # labels are colours, not grey
    assert (viewer.picture().max(-1) < 10).mean() < 0.99
    lab.shot(viewer.place, "07-labels")
    viewer.show("activation", True)
    viewer.settle()
    lab.shot(viewer.place, "07-activation")


def test_08_a_row_a_track_and_the_viewer_choose_for_each_other(lab):
    book = lab.book("08")
    place, viewer = book.cell("link-views"), book.viewer("link-views")
    for layer in ("track points", "track paths", "labels"):
        changed, _ = viewer.drawn_by(layer)
        assert changed.sum() > 30, layer
    tracks = pd.read_csv(lab.run / "track" / "tracks.csv")
    table = place.locator(".cellfm-table")
    linked = place.locator(".jp-OutputArea-child", has=book.page.locator(".cellfm-table"))  # the three views alone

    table.locator("tr[data-row]").nth(5).click()  # a row moves the viewer
    row = int(table.locator("tr.chosen").get_attribute("data-row"))
    wait_for(lambda: near(viewer.position(), tracks.iloc[row]), 120, "the viewer does not move to the row")
    lab.shot(linked, "08-row")

    chart = place.locator(".js-plotly-plot").last  # the first is the one that stands alone
    chart.scroll_into_view_if_needed()
    book.hide()  # a scene that was drawn, hidden and comes back still answers
    wait_for(lambda: not chart.is_visible(), 30, "the notebook is not hidden")
    book.show()
    track, frame = click_a_track(book.page, chart)
    row = int(tracks.index[(tracks["track_id"] == track) & (tracks["frame"] == frame)][0])
    wait_for(lambda: int(table.locator("tr.chosen").get_attribute("data-row")) == row, 120, "the click chooses no row")
    wait_for(lambda: near(viewer.position(), tracks.iloc[row]), 120, "the viewer does not move to the track")
    lab.shot(linked, "08-track")

    here = tracks[(tracks["frame"] == frame) & (tracks["track_id"] != track)]
    spacing = np.array([0.25, 0.1, 0.1])
    box = viewer.place.bounding_box()
    viewer.place.click(button="right", position={"x": 0.2 * box["width"], "y": 0.2 * box["height"]})  # moves there
    wait_for(lambda: int(table.locator("tr.chosen").get_attribute("data-row")) != row, 120, "no row is chosen")
    time.sleep(1)
    at = np.array(viewer.position()[1:]) - 0.5
    all_here = pd.concat([here, tracks.iloc[[row]]])
    distance = (((all_here[["z", "y", "x"]] - at) * spacing) ** 2).sum(axis=1)
    assert int(table.locator("tr.chosen").get_attribute("data-row")) == distance.idxmin()
    lab.shot(linked, "08-moved")
    turned = book.cell("link-views").locator(".js-plotly-plot").first
    turned.scroll_into_view_if_needed()
    turned.locator(".gl-container canvas").first.wait_for()
    time.sleep(1)
    picture = pixels(turned.screenshot())
    assert (picture.max(-1).astype(int) - picture.min(-1) > 60).mean() > 0.002  # tracks are drawn, and in colour
    lab.shot(turned, "08-tracks")
    review, file = book.cell("show-events"), lab.run / "track" / "events.csv"
    status = lambda: pd.read_csv(file)["status"].value_counts().to_dict()  # noqa: E731
    before = status()
    review.get_by_role("button", name="confirm", exact=True).click()
    wait_for(lambda: status().get("confirmed", 0) == before.get("confirmed", 0) + 1, 120, "no event is confirmed")
    lab.shot(review.locator(".cellfm-desk"), "08-review")
    review.get_by_role("button", name="undo").click()
    wait_for(lambda: status() == before, 120, "undo is not in events.csv")
    events = book.cell("explore-events")
    events.locator(".js-plotly-plot").nth(1).scroll_into_view_if_needed()
    time.sleep(1)
    lab.shot(events, "08-events")

    address = urljoin(book.page.url, book.viewer("link-views").place.get_attribute("src"))
    assert answers(address)
    book.restart()
    wait_for(lambda: not answers(address), 120, "the viewer outlives its kernel")


def near(position, row):
    """Say whether a position (t, z, y, x) is at the centre of a table's row."""
    return np.allclose(position, [row["frame"] + 0.5, row["z"] + 0.5, row["y"] + 0.5, row["x"] + 0.5], atol=1e-3)


def click_a_track(page, chart):
    """Hover the points that stand alone in the 3D chart until one is named, click it, return its track and frame."""
    chart.scroll_into_view_if_needed()
    chart.locator(".gl-container canvas").first.wait_for()
    box, points = chart.bounding_box(), np.array(chart.evaluate(ON_SCREEN))
    away = np.hypot(*(points[:, None] - points[None]).T)
    np.fill_diagonal(away, np.inf)
    label = chart.locator(".hovertext, .infolayer .hoverlayer text").first
    for x, y in points[np.argsort(-np.nanmin(away, axis=1))][:12]:
        page.mouse.move(box["x"] + x + 30, box["y"] + y + 30)
        page.mouse.move(box["x"] + x, box["y"] + y)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if label.count() and (named := re.match(r"track (\d+), frame (\d+)", label.text_content() or "")):
                page.mouse.click(box["x"] + x, box["y"] + y)
                return int(named[1]), int(named[2])
            time.sleep(0.1)
    raise AssertionError("no track under the mouse")
