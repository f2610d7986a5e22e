"""The rules of a notebook (how it is written), each enforced."""

import ast
import re

import nbformat
import pytest

from cellfm_nb.notebooks import listing
from cellfm_nb.workspace import AFTERWARDS

BOOKS = list(listing().values())
pytestmark = pytest.mark.skipif(not BOOKS, reason="no notebooks beside the package")


def tags(cell):
    return cell.metadata.get("tags", [])


@pytest.fixture(params=BOOKS, ids=lambda p: p.stem)
def book(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture
def name(request):
    return request.node.callspec.params["book"].stem


def test_sequence_is_complete():
    assert [p.name[:2] for p in BOOKS] == [f"{n:02d}" for n in range(14)]


def test_valid_and_without_outputs(book):
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.id
    assert set(book.metadata) <= {"kernelspec", "language_info"}


def test_first_cell_tells_what_it_is(book, name):
    text = book.cells[0].source
    words = name[3:].replace("_", " ")
    assert re.match(rf"# {name[:2]} · {words}", text, re.I), text[:60]
    for word in ("learn", "tiny", "workshop", "full", "reads", "writes"):
        assert word in text.lower(), word
    here = [p.stem for p in BOOKS].index(name)
    for neighbour in BOOKS[max(here - 1, 0) : here + 2]:
        assert neighbour.stem == name or f"({neighbour.name})" in text, f"no link to {neighbour.name}"


def test_ids_say_what_the_cell_does(book):
    for cell in book.cells:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell.id) and re.search("[a-z]{3}", cell.id), cell.id


def test_one_parameters_cell_of_plain_assignments(book):
    cells = [c for c in book.cells if "parameters" in tags(c)]
    assert len(cells) == 1
    tree = ast.parse(cells[0].source)
    for node in tree.body:
        assert isinstance(node, ast.Assign), ast.unparse(node)
        ast.literal_eval(node.value)
    for line in cells[0].source.splitlines():
        assert "#" in line, f"no comment with the unit: {line}"


def test_cells_are_short_and_define_nothing(book):
    code = [c for c in book.cells if c.cell_type == "code"]
    assert len(code) <= 18
    lengths = [len(c.source.splitlines()) for c in code]
    assert max(lengths) <= 18 and sorted(lengths)[len(lengths) // 2] <= 10
    for cell in code:
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), cell.id


def test_no_installs_no_absolute_paths(book):
    for cell in book.cells:
        if cell.cell_type == "code":
            assert not re.search(r"pip install|^\s*[!%]|sys\.path", cell.source, re.M), cell.id
            assert not re.search(r"[\"'](/[A-Za-z]|[A-Z]:\\\\|~/)", cell.source), cell.id


def test_checks_box_and_exercises(book):
    kinds = [t for c in book.cells for t in tags(c)]
    assert "check" in kinds
    assert kinds.count("task") >= 2 and kinds.count("solution") >= 2
    prose = " ".join(c.source for c in book.cells if c.cell_type == "markdown")
    assert "what can go wrong" in prose.lower() and "checkpoint" in prose.lower()
    for cell in book.cells:
        if "check" in tags(cell):
            assert "assert" in cell.source, cell.id


def test_stages_after_the_last_reader_of_the_summary_are_known():
    """Else the notebook that reads summary.json is run again for nothing."""
    source = ["".join(c.source for c in nbformat.read(p, as_version=4).cells if c.cell_type == "code") for p in BOOKS]
    last = max(n for n, text in enumerate(source) if '"summary.json"' in text)
    later = {stage for text in source[last:] for stage in re.findall(r'ws\.record\("(\w+)"', text)}
    assert later and later <= set(AFTERWARDS)
