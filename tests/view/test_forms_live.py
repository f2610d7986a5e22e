"""Forms from a parameters cell, and live curves: both with headless twins that return at once."""

import dataclasses
import json
import time

import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.notebooks import listing
from cellfm_nb.profiles import NAMES, TINY, settings
from cellfm_nb.schema import SCHEMA, check_range
from cellfm_nb.view import forms, live

CELL = '''workspace = "runs/demo"   # folder of this run
profile = "tiny"   # tiny | workshop | full
device = "auto"          # auto | cpu | cuda
seed = 0                 # one seed, keyed by purpose
steps = None             # training steps; None: the profile's
lr = 1e-3                # learning rate
spacing_um = [0.25, 0.1, 0.1]   # (z, y, x) µm
show = True   # draw
'''


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # forms remember: not in the home of who tests
    path = tmp_path / "03_pretrain_encoder.ipynb"
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# x"]},
             {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": CELL.splitlines(keepends=True)}]
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_parameters_are_read_with_their_comments_and_choices(notebook):
    found = {p.name: p for p in forms.parameters(notebook)}
    assert list(found) == ["workspace", "profile", "device", "seed", "steps", "lr", "spacing_um", "show"]
    assert found["profile"].choices == ("tiny", "workshop", "full")
    assert found["seed"].help == "one seed, keyed by purpose" and found["seed"].choices == ()
    assert found["spacing_um"].default == [0.25, 0.1, 0.1] and found["steps"].default is None


def test_headless_a_form_holds_the_defaults_and_the_command(notebook, monkeypatch):
    monkeypatch.setenv("CELLFM_HEADLESS", "1")
    form = forms.form(str(notebook.with_suffix("")))
    assert form.values["lr"] == 1e-3 and form.widgets == {}
    assert form.command == "cellfm run --from 03 --to 03"
    form.set("steps", "20")
    form.set("profile", "workshop")
    assert form.values["steps"] == 20
    assert form.command == "cellfm run --from 03 --to 03 --profile workshop --set steps=20"
    assert "profile = 'workshop'" in repr(form)


def test_with_somebody_looking_widgets_move_the_values(notebook, monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(forms, "headless", lambda: False)
    form = forms.form(notebook)
    kinds = {name: type(widget).__name__ for name, widget in form.widgets.items()}
    assert kinds == {"workspace": "Text", "profile": "Dropdown", "device": "Dropdown", "seed": "BoundedIntText",
                     "steps": "Text", "lr": "BoundedFloatText", "spacing_um": "Text", "show": "Checkbox"}  # fmt: skip
    form.widgets["seed"].value = 5
    form.widgets["spacing_um"].value = "[0.3, 0.1, 0.1]"
    assert form.values["seed"] == 5 and form.values["spacing_um"] == [0.3, 0.1, 0.1]
    form.widgets["spacing_um"].value = "[0.3,"  # half typed: said, not raised, and the value stays
    assert form.values["spacing_um"] == [0.3, 0.1, 0.1]
    assert "application/vnd.jupyter.widget-view+json" in form._repr_mimebundle_()


def test_a_form_remembers_what_was_typed_last_and_a_batch_run_does_not(notebook, monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(forms, "headless", lambda: False)
    first = forms.form(notebook)
    first.widgets["steps"].value, first.widgets["profile"].value = "20", "workshop"
    again = forms.form(notebook)
    assert again.values["steps"] == 20 and again.widgets["steps"].value == "20"
    assert again.widgets["profile"].value == "workshop" and "--set steps=20" in again.command
    monkeypatch.setattr(forms, "headless", lambda: True)
    assert forms.form(notebook).values["steps"] is None  # a person's last click changes no batch run
    monkeypatch.setattr(forms, "headless", lambda: False)
    first.memory.write_text('{"steps": -3, "gone": 1, "profile": "huge", "lr": 0.5}')
    odd = forms.form(notebook)  # out of range, no parameter any more, no choice: left; the rest is taken
    assert odd.values["steps"] is None and odd.values["profile"] == "tiny" and odd.values["lr"] == 0.5
    first.memory.write_text("{half")
    assert forms.form(notebook).command == "cellfm run --from 03 --to 03"


def test_forms_know_units_ranges_and_what_the_profile_says(notebook, monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    monkeypatch.setattr(forms, "headless", lambda: False)
    form = forms.form(notebook)
    assert isinstance(form.widgets["seed"], widgets.BoundedIntText) and form.widgets["seed"].min == 0
    assert form.widgets["steps"].placeholder == f"{settings('tiny', 'pretrain').steps} (profile)"
    assert "um" in next(p for p in form.parameters if p.name == "spacing_um").about
    form.set("lr", 1.0)
    for name, bad in (("lr", 1.5), ("seed", -1), ("spacing_um", [0.1, 0.0, 0.1]), ("profile", "huge")):
        with pytest.raises(InputError):
            form.set(name, bad)


def test_every_number_a_notebook_or_a_profile_asks_for_has_its_range():
    for stage, plain in TINY.items():
        for field in dataclasses.fields(plain):
            assert field.name in SCHEMA, f"{stage}.{field.name}"
            for profile in NAMES:
                check_range(field.name, getattr(settings(profile, stage), field.name))
    for path in listing().values():
        for p in forms.parameters(path):
            numeric = isinstance(p.default, int | float) and not isinstance(p.default, bool)
            assert p.name in SCHEMA or not numeric, f"{path.name}: {p.name}"
            check_range(p.name, p.default)


def test_bad_forms_are_said_clearly(notebook, tmp_path):
    with pytest.raises(InputError, match="no such notebook"):
        forms.form(tmp_path / "absent.ipynb")
    with pytest.raises(InputError, match="Unknown parameter"):
        forms.form(notebook).set("stepz", 1)
    with pytest.raises(InputError, match="plain parameter"):
        list(forms.read("n = len('abc')  # no"))
    (tmp_path / "x.ipynb").write_text('{"cells": []}')
    with pytest.raises(InputError, match="no parameters"):
        forms.form(tmp_path / "x.ipynb")


def test_live_curves_collect_headless_without_drawing(monkeypatch):
    monkeypatch.setattr(live.LiveCurves, "_redraw", lambda self: pytest.fail("drawn headless"))
    watch = live.LiveCurves(["loss"], every_s=0.0)
    for step in range(2000):
        watch(step, loss=1 / (step + 1), rank=3)
    assert watch.table.shape == (2000, 3)
    drawn = watch.close().axes[0].lines[0].get_xdata()
    assert len(drawn) == live.MAX_DRAWN and drawn[-1] == 1999


def test_live_curves_redraw_in_place_and_rarely(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = []

    class Handle:
        def display(self, data, raw):
            shown.append("display")

        def update(self, data, raw):
            shown.append("update")

    monkeypatch.setattr(display, "DisplayHandle", Handle)
    monkeypatch.setattr(live, "headless", lambda: False)
    watch = live.LiveCurves(every_s=0.01)
    start = time.monotonic()
    while time.monotonic() - start < 1.0:
        watch(len(watch.rows), loss=1.0)
        time.sleep(0.001)
    assert shown[0] == "display" and set(shown[1:]) <= {"update"}
    assert 1 <= len(shown) < 40  # throttled although the interval asked for is 10 ms
    watch.close()
    assert live.LiveCurves.fingerprint == watch.fingerprint  # watching does not change what is watched


def test_live_panels_share_one_legend_without_a_colour_twice_and_name_their_axes():
    pytest.importorskip("plotly")
    watch = live.LiveCurves(["loss", "dino"], every_s=1e9)
    watch._quiet = False
    watch(0, loss=2.0, dino=1.0, rankme=40.0, probe_ap=0.2)
    chart = watch._empty_chart()
    colours = {trace.name: trace.line.color for trace in chart.data}
    assert {"loss", "dino", "rankme", "probe_ap"} <= set(colours) and len(set(colours.values())) == len(colours)
    titles = [axis.title.text for axis in chart.select_yaxes()]
    assert titles[:2] == ["loss", "rankme"] and all(titles)
    assert all("markers" in trace.mode for trace in chart.data)  # a single point shows
