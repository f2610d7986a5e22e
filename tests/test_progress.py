"""Progress: a bar while it goes on and a line when it is done, in a kernel; lines elsewhere; a sign of life always."""

import re
import time

import pandas as pd
import pytest

from cellfm_nb import bench, progress
from cellfm_nb.progress import Progress, bar_of, busy, clock, track
from cellfm_nb.workspace import Workspace


@pytest.fixture(autouse=True)
def nothing_shown_before(monkeypatch):
    monkeypatch.setattr(Progress, "last_shown", float("-inf"))


@pytest.fixture
def kernel(monkeypatch):
    """Stand in for a notebook's display: every state it was in, in order."""
    states = []

    class Handle:
        def display(self, data, raw):
            states.append(data)

        update = display

    monkeypatch.setattr(progress, "_in_kernel", lambda: True)
    monkeypatch.setattr("IPython.display.DisplayHandle", Handle)
    return states


def test_in_a_kernel_a_bar_grows_and_a_line_stays(kernel):
    bar = Progress(4, "work", every_s=0)
    for _ in range(4):
        bar.step(loss=0.5)
    bar.close()
    widths = [int(re.search(r"width:(\d+)%", state["text/html"])[1]) for state in kernel[:-1]]
    assert widths == [25, 50, 75, 100] and set(kernel[-1]) == {"text/plain"}
    assert re.fullmatch(r"work: 1/4, .* left, peak \d+ MiB, loss 0.5", kernel[0]["text/plain"])
    assert kernel[-1]["text/plain"].startswith("work: 4/4, done in")


def test_the_time_left_counts_what_was_there_before_only_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = Progress(100, "work", done=80)
    now[0] += 10
    bar.done += 5
    assert "85/100, 30 s left" in bar._line({})  # 15 more at 2 s each


def test_elsewhere_lines_are_printed(capsys):
    assert list(track(range(3), "work")) == [0, 1, 2]
    told = capsys.readouterr().err
    assert "work: 3/3, done in" in told and "MiB" in told


def test_work_without_steps_says_that_it_goes_on(capsys):
    with busy("linking", expected_s=60, after_s=0.02):
        time.sleep(0.5)
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"linking: about (59|60) s left, peak \d+ MiB", first)
    assert re.fullmatch(r"linking: done in 0\.\d s, peak \d+ MiB", last)


def test_it_is_silent_over_short_work_work_that_speaks_and_failures(capsys):
    with busy("short"):
        pass
    with busy("speaks", after_s=0.02):
        Progress(2, "inner", every_s=0).step()
        time.sleep(0.2)
    with pytest.raises(ZeroDivisionError), busy("fails"):
        raise ZeroDivisionError
    assert "speaks" not in (told := capsys.readouterr().err) and "inner: 1/2" in told and "fails" not in told


def slow(path, seconds):
    time.sleep(seconds)
    path.write_text("x")


def test_every_file_that_a_run_makes_shows_signs_of_life(tmp_path, monkeypatch):
    """Whatever writes it: linking, repair, PCA; and the second time it knows how long the first took."""
    told = []

    def listen(what, expected_s=None, after_s=3.0):
        told.append((what, expected_s))
        return busy(what, expected_s, after_s)

    monkeypatch.setattr("cellfm_nb.workspace.busy", listen)
    ws = Workspace.open(tmp_path / "run")
    ws.make(["a.txt"], slow, 0.05)
    ws.make(["a.txt"], slow, 0.05)  # unchanged: skipped, nothing to say
    ws.make(["a.txt"], slow, 0.06)
    assert told[0] == ("a.txt", None) and len(told) == 2 and told[1][1] >= 0.05


def test_long_calls_that_count_no_steps_show_signs_of_life(capsys, monkeypatch):
    from cellfm_nb.track import link_objects

    monkeypatch.setattr("cellfm_nb.track.link.check_objects", lambda *a: time.sleep(3.6) or a[0])
    link_objects(pd.DataFrame({"frame": [0], "z_um": 1.0, "y_um": 1.0, "x_um": 1.0}), (1, 1, 1), 1.0)
    assert "linking: 3." in capsys.readouterr().err


def test_a_bench_shows_signs_of_life(monkeypatch, capsys):
    heard = []
    monkeypatch.setattr(bench, "busy", lambda what: heard.append(what) or busy(what))
    monkeypatch.setattr(bench.importlib, "import_module", lambda name: type("B", (), {"rows": lambda: iter(())}))
    assert bench.main("crops") == 0 and heard == ["bench crops"]


def test_bars_are_safe_and_stay_in_their_frame():
    assert "width:100%" in bar_of(7.0, "x") and "width:0%" in bar_of(-1, "x") and "&lt;b&gt;" in bar_of(0.5, "<b>")


@pytest.mark.parametrize(("seconds", "said"), [
    (0.44, "0.4 s"), (42, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations(seconds, said):
    assert clock(seconds) == said
