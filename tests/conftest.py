"""Shared by all tests: one thread per worker, and paths of the project."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Begin with the longest module, the run of all notebooks: the other worker has the rest meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_run.py")
