"""Browser tests: asked for with `make browser` (CELLFM_BROWSER=1), never in CI, skipped where no browser is."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from browser.lab import CHROMIUM


def why_not():
    """Say why no browser test runs here, "" where they do."""
    if os.environ.get("CI") or os.environ.get("CELLFM_BROWSER") != "1":
        return "a real browser: run `make browser`"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is missing: pip install -c constraints.txt -e '.[browser]'"
    return "" if CHROMIUM else "no Chromium on the PATH: apt install chromium"


def pytest_collection_modifyitems(items):
    reason = why_not()
    for item in items:
        if "tests/browser" in item.nodeid:
            item.add_marker(pytest.mark.browser)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A copy of a finished run, so that the notebooks find their work done."""
    source = Path(os.environ.get("CELLFM_BROWSER_RUN", ROOT / "runs" / "demo"))
    if not (source / "track" / "tracks.csv").exists():
        pytest.skip(f"no finished run in {source.name}: make run")
    unread = shutil.ignore_patterns("executed", "figures", "many", "own", "real")
    return Path(shutil.copytree(source, tmp_path_factory.mktemp("run") / "demo", symlinks=True, ignore=unread))


@pytest.fixture(scope="session")
def shots():
    """The folder that gets a screenshot of each view."""
    folder = Path(os.environ.get("CELLFM_BROWSER_SHOTS", ROOT / "runs" / "browser"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
