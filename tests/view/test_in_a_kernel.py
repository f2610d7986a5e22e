"""The interactive views in a real kernel that no browser is attached to: nothing waits, a picture always stays."""

import os

import nbformat
import pytest

pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")

CELLS = [
    """import numpy as np
from cellfm_nb.view.volume import close_viewers, show_volume
show_volume({"raw": np.ones((4, 5, 6), np.uint16)}, (0.2, 0.1, 0.1))""",
    """from cellfm_nb.view.live import LiveCurves
import time
live = LiveCurves(every_s=0.01)
for step in range(30):
    live(step, loss=1.0 / (step + 1)); time.sleep(0.02)""",
    """from pathlib import Path
from cellfm_nb.view.forms import form
Path("05_x.ipynb").write_text('{"cells": [{"metadata": {"tags": ["parameters"]}, "source": ["n = 3  # number"]}]}')
form("05_x.ipynb")""",
    "close_viewers()",
]


def execute(folder, **env):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    here = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(book, timeout=60, kernel_name="python3", resources=here)
    client.execute(env={**{k: v for k, v in os.environ.items() if k != "CELLFM_HEADLESS"}, **env})
    return [cell.outputs for cell in book.cells]


def kinds(outputs):
    return [kind for output in outputs for kind in output.get("data", {})]


def test_views_with_nobody_looking_still_return_and_leave_a_picture(tmp_path):
    volume, live, form, _ = execute(tmp_path)
    if pytest.importorskip("neuroglancer"):
        assert "<iframe" in volume[0]["data"]["text/html"] and "/v/" in volume[0]["data"]["text/html"]
    assert "image/png" in kinds(volume)
    assert len(live) == 1 and "application/vnd.jupyter.widget-view+json" in kinds(live)  # one output however often
    assert "application/vnd.jupyter.widget-view+json" in kinds(form)


def test_headless_the_same_cells_leave_only_still_pictures(tmp_path):
    volume, live, form, _ = execute(tmp_path, CELLFM_HEADLESS="1")
    assert kinds(volume).count("image/png") == 1 and "text/html" not in kinds(volume)
    assert kinds(live) == [] and kinds(form) == ["text/plain"]
