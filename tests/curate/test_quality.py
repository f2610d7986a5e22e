import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cellfm_nb.curate import accepted, quality_table, write_quality
from cellfm_nb.curate.quality import COLUMNS
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

from .twin import puncta

SPACING = (0.25, 0.1, 0.1)
T = 12


@pytest.fixture(scope="module")
def frames():
    """A bleaching movie of moving puncta: one scene per frame, dimmer and dimmer."""
    return np.stack([puncta((16, 96, 96), seed=5, peak=120 * np.exp(-t / 30), n=40) + 0 for t in range(T)])


def verdicts(frames):
    return quality_table(Movie.from_array(frames, spacing_um=SPACING))


def test_bleaching_is_no_defect(frames):
    table = verdicts(frames)
    assert list(table.columns) == COLUMNS and (table.verdict == "accept").all() and (table.by == "rule").all()
    assert table.snr.is_monotonic_decreasing or table.snr.iloc[-1] < table.snr.iloc[0]
    assert table.signal_fraction.between(0.002, 0.1).all() and (table.drift_px < 1).all()


def test_every_defect_is_found(frames):
    rng = np.random.default_rng(0)
    broken = frames.copy()
    broken[2] = 300  # shutter closed: constant
    broken[5] = np.minimum(frames[5], np.quantile(frames[5], 0.99))  # saturated
    blurred = ndimage.gaussian_filter(frames[7].astype(float) - 200, (1, 4, 4))
    broken[7] = 200 + blurred + rng.normal(0, 10, blurred.shape)  # out of focus
    broken[9] = frames[8]  # recorded twice
    broken[10] = 100 + (frames[10] - 100.0) * 0.5  # the light failed
    table = verdicts(broken)
    assert (table.verdict[[2, 5, 7, 9, 10]] == "reject").all(), table
    assert (table.verdict.drop([2, 5, 7, 9, 10]) == "accept").all(), table
    for frame, word in ((2, "constant"), (5, "saturated"), (7, "focus"), (9, "copy"), (10, "light")):
        assert word in table.reason[frame]
    # A04, negative control: looking at the first frame alone would have passed all of them
    assert table.verdict[0] == "accept"


def test_a_jump_is_doubtful(frames):
    moved = frames.copy()
    moved[6:] = np.roll(frames[6:], 17, axis=-1)
    table = verdicts(moved)
    assert table.verdict[6] == "unsure" and "jumps" in table.reason[6] and 15 < table.drift_px[6] < 19


def test_not_finite_and_nothing_usable(frames):
    broken = frames[:6].astype(np.float32)
    broken[1, 3, 4, 5] = np.nan
    table = verdicts(broken)
    assert table.verdict.tolist() == ["accept", "reject", *["accept"] * 4] and "not finite" in table.reason[1]
    dark = verdicts(np.full((2, 8, 32, 32), 5, np.uint16))
    assert (dark.verdict == "reject").all()
    with pytest.raises(InputError, match="rejected"):
        accepted(dark)


def test_one_frame_is_judged_by_the_absolute_rules(frames):
    table = verdicts(frames[:1])
    assert table.verdict.tolist() == ["accept"] and table.drift_px[0] == 0


def test_file_reads_back(tmp_path, frames):
    Movie.from_array(frames[:3], spacing_um=SPACING).save(tmp_path / "movie.ome.zarr")
    write_quality(tmp_path / "quality.csv", tmp_path / "movie.ome.zarr")
    table = pd.read_csv(tmp_path / "quality.csv", keep_default_na=False)
    assert list(table.columns) == COLUMNS and accepted(table) == [0, 1, 2]
