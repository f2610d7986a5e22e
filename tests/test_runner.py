"""The runner of notebooks, on toy notebooks: parameters, progress, provenance, skipping, going on after a failure."""

import json

import nbformat
import pytest

from cellfm_nb import kernel, notebooks
from cellfm_nb.kernel import NotebookFailed
from cellfm_nb.notebooks import run_notebooks

OPEN = ("import os\nfrom cellfm_nb.workspace import Workspace\n"
        "ws = Workspace.open(workspace, profile=profile, seed=seed, device=device)")
MAKE = "import writers\npath = ws.make('a.txt', writers.write, text=text)\nprint(path.read_text())"
READ = "print(ws.read('a.txt').read_text().upper())\nws.record('second', length=len(ws.read('a.txt').read_text()))"


def book(path, *cells, extra=""):
    parameters = f'workspace = "x"\nprofile = "tiny"\ndevice = "cpu"\nseed = 0\n{extra}'
    all_cells = [nbformat.v4.new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]})]
    all_cells += [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate((OPEN, *cells))]
    nbformat.write(nbformat.v4.new_notebook(cells=all_cells), path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFM_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "writers.py").write_text("def write(path, text):\n    path.write_text(text)\n")
    return tmp_path


def run(books, lines, **options):
    lines.clear()
    run_notebooks(books, "run", say=lines.append, **options)
    return "\n".join(lines)


def test_runs_skips_and_reruns_what_changed(home):
    first = book(home / "00_first.ipynb", MAKE, extra='text = "one"')
    second = book(home / "01_second.ipynb", READ)
    lines = []
    assert "skipped" not in run([first, second], lines)
    assert run([first, second], lines).count("unchanged, skipped in 0.") == 2
    told = run([first, second], lines, text="other")
    assert "skipped" not in told  # the second reads what the first now wrote differently
    html = (home / "run/executed/01_second.html").read_text()
    assert "OTHER" in html and str(home) not in html
    record = json.loads((home / "run/workspace.json").read_text())["notebooks"]
    assert record["00_first"]["parameters"]["text"] == "other" and record["00_first"]["peak_mib"] > 10
    summary = json.loads((home / "run/summary.json").read_text())
    assert summary["second"]["length"] == 5 and summary["second"]["seconds"] > 0


def test_a_file_that_no_notebook_makes_counts_when_it_comes_changes_or_goes(home):
    """A person's verdicts, or another run's data set: the runner must not call yesterday's result unchanged."""
    watching = book(home / "00_watch.ipynb", "path = ws.watch('said.csv')\nprint(path.exists() and path.read_text())")
    lines = []
    run([watching], lines)
    assert "skipped" in run([watching], lines)
    for step in (lambda: (home / "said.csv").write_text("accept"), lambda: (home / "said.csv").write_text("reject"),
                 (home / "said.csv").unlink):
        step()
        assert "skipped" not in run([watching], lines)
        assert "skipped" in run([watching], lines)


def test_a_lost_artifact_is_made_again(home):
    first = book(home / "00_first.ipynb", MAKE, extra='text = "one"')
    lines = []
    run([first], lines)
    (home / "run/a.txt").unlink()
    assert "skipped" not in run([first], lines) and (home / "run/a.txt").exists()


def test_stops_at_the_first_failing_cell_and_goes_on_from_there(home):
    first = book(home / "00_first.ipynb", MAKE, extra='text = "one"')
    second = book(home / "01_second.ipynb", READ, "assert (ws.folder / 'ready').exists(), 'not ready'")
    third = book(home / "02_third.ipynb", READ)
    lines = []
    with pytest.raises(NotebookFailed) as failure:
        run([first, second, third], lines)
    message = str(failure.value)
    assert failure.value.status == 1 and "01_second, cell cell-2" in message and "not ready" in message
    assert not (home / "run/executed/02_third.html").exists()
    (home / "run/ready").write_text("")
    told = run([first, second, third], lines)
    assert told.count("skipped") == 1 and "02_third: done" in told


def test_bad_input_in_a_cell_has_status_2_and_its_own_words(home):
    bad = book(home / "00_bad.ipynb", "from cellfm_nb.errors import InputError\n"
               "raise InputError('Too few voxels.', got=3, expected='4', do='Add one.')")
    with pytest.raises(NotebookFailed) as failure:
        run([bad], [])
    assert failure.value.status == 2 and "what to do: Add one." in str(failure.value)
    assert "Traceback" not in str(failure.value)


def test_progress_of_a_long_cell_reaches_the_terminal(home, monkeypatch):
    monkeypatch.setattr(kernel, "RELAY_EVERY_S", 0.2)
    slow = book(home / "00_slow.ipynb", "import time\nfrom cellfm_nb.progress import track\n"
                "for _ in track(range(6), 'count'): time.sleep(0.5)")
    lines = []
    told = run([slow], lines)
    assert "left, peak" in told
    executed = nbformat.read(home / "run/executed/00_slow.ipynb", as_version=4)
    assert len(executed.cells[-1].outputs) == 1  # one line, updated in place


def test_parameters_are_read_without_running(home):
    path = book(home / "00_p.ipynb", extra='shape = (1, 2)  # voxels\nname = None')
    assert notebooks.parameters(path)["shape"] == (1, 2) and notebooks.parameters(path)["name"] is None
