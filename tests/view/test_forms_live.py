"""Forms from a parameters cell, and live curves: both with headless twins that return at once."""

import json
import time

import pytest

from cellfm_nb.errors import InputError
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
def notebook(tmp_path):
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
    assert kinds == {"workspace": "Text", "profile": "Dropdown", "device": "Dropdown", "seed": "IntText",
                     "steps": "Text", "lr": "FloatText", "spacing_um": "Text", "show": "Checkbox"}  # fmt: skip
    form.widgets["seed"].value = 5
    form.widgets["spacing_um"].value = "[0.3, 0.1, 0.1]"
    assert form.values["seed"] == 5 and form.values["spacing_um"] == [0.3, 0.1, 0.1]
    form.widgets["spacing_um"].value = "[0.3,"  # half typed: said, not raised, and the value stays
    assert form.values["spacing_um"] == [0.3, 0.1, 0.1]
    assert "application/vnd.jupyter.widget-view+json" in form._repr_mimebundle_()


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
