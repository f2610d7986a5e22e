import os
from pathlib import Path

import pytest

from .twin import puncta


@pytest.fixture(scope="session")
def picture():
    return puncta()


@pytest.fixture(scope="session")
def real():
    """The folder with im_raw.tif and im_deskewed.tif, looked for under CELLFM_DATA."""
    for folder in filter(None, os.environ.get("CELLFM_DATA", "").split(os.pathsep)):
        for found in Path(folder).rglob("im_raw.tif"):
            return found.parent
    pytest.skip("the real stack (im_raw.tif) is not under CELLFM_DATA")
