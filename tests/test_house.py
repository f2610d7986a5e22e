"""Who may know whom, read from the imports; and what an import may cost."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "cellfm_nb"
GROUND = {"arguments", "atomic", "errors", "here", "journal", "movie", "profiles", "progress", "provenance", "schema",
          "seeds", "workspace", "__init__"}
STAGES = {"curate", "pretrain", "repair", "stream", "segment", "track"}
# the doors of the house: they may look into every room
FREE = {"cli", "commands", "notebooks", "kernel", "doctor", "bench", "view", "claims"}


def rooms_imported(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cellfm_nb"):
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("cellfm_nb.")}
    return found - GROUND - {"InputError", "Unreachable", "__version__"}


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_know_only_whom_they_may(path):
    room, known = room_of(path), rooms_imported(path)
    if room in FREE:
        return
    others = known - {room}
    allowed = {"curate": {"augment"}, "pretrain": {"augment", "encoder"}, "repair": {"encoder"},
               "stream": {"encoder"}, "simulate": set()}
    if room in GROUND | {"manifest"}:
        assert not others, f"the ground floor uses nobody: {others}"
    else:
        assert others <= allowed.get(room, set()), f"{room} may not import {others}"


@pytest.mark.parametrize("room", ["augment", "curate", "encoder", "pretrain", "repair", "stream", "segment", "track",
                                  "score", "simulate", "movie"])
def test_science_imports_without_jupyter(room):
    block = "import sys\nfor m in ('IPython', 'ipywidgets', 'plotly', 'neuroglancer', 'matplotlib.pyplot'):\n" \
            f"    sys.modules[m] = None\nimport cellfm_nb.{room}\n"
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_cheap():
    code = "import sys, cellfm_nb; assert not {'torch', 'numpy', 'zarr', 'pandas'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_unsafe_reading():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        for bad in ("import pickle", "allow_pickle=True", "yaml.load(", "torch.load(", "extractall("):
            assert bad not in text, f"{path.name}: {bad}"
