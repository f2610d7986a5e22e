import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cellfm_nb.curate import accepted, quality_table, write_quality
from cellfm_nb.curate.quality import COLUMNS, empty_planes
from cellfm_nb.curate.quality_summary import SUMMARY, half_life, movie_quality, ranked, summarise
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


def test_the_fill_of_a_deskewed_stack_is_no_background(frames):
    deskewed = frames[:1].copy()
    deskewed[..., :60] = 200  # more than half of it
    table = verdicts(deskewed)
    assert table.verdict[0] == "accept" and 10 < table.snr[0] < 40 and table.focus[0] > 5


def test_one_frame_is_judged_by_the_absolute_rules(frames):
    table = verdicts(frames[:1])
    assert table.verdict.tolist() == ["accept"] and table.drift_px[0] == 0


def test_file_reads_back(tmp_path, frames):
    Movie.from_array(frames[:3], spacing_um=SPACING).save(tmp_path / "movie.ome.zarr")
    write_quality(tmp_path / "quality.csv", tmp_path / "movie.ome.zarr")
    table = pd.read_csv(tmp_path / "quality.csv", keep_default_na=False)
    assert list(table.columns) == COLUMNS and accepted(table) == [0, 1, 2]


def test_empty_planes_are_counted_and_the_usual_ones_forgiven(frames):
    broken = frames.copy()
    broken[3, 5] = 200  # one plane never written: a constant
    broken[6, :6] = np.random.default_rng(0).normal(100, 1.6, broken[6, :6].shape).astype(np.uint16)  # light off
    table = verdicts(broken)
    assert table.empty_planes[3] == pytest.approx(1 / 16) and table.verdict[3] == "unsure"
    assert "planes empty" in table.reason[3]
    assert table.empty_planes[6] == 6 / 16 and table.verdict[6] == "reject"
    assert (table.empty_planes.drop([3, 6]) == 0).all()
    skewed = frames.copy()
    skewed[:, :4] = 100  # the corner of a deskewed stack: empty in every frame, no defect
    table = verdicts(skewed)
    assert (table.empty_planes == 0.25).all() and (table.verdict == "accept").all(), table.reason
    # the wrong variant: a plane dimmer than the brightest by half would be called empty on any depth gradient
    sloping = (frames[0] * np.linspace(0.4, 1, 16)[:, None, None]).astype(np.uint16)
    assert empty_planes(sloping, 10.0) == 0 and (sloping.mean((1, 2)) < sloping.mean((1, 2)).max() / 2).any()


class Torn:
    """A movie whose fourth frame a codec can't read."""

    shape, dtype = (5, 1, 16, 96, 96), np.dtype(np.uint16)

    def __init__(self, frames):
        self.frames = frames

    def __getitem__(self, index):
        if index[0] == 3:
            raise RuntimeError("zlib: incorrect data check")
        return self.frames[index[0]]


def test_a_frame_that_cant_be_read_is_out_and_the_others_stay(frames):
    table = quality_table(Movie(Torn(frames), SPACING, 2.0, "torn"), quiet=True)
    assert table.dropped.tolist() == ["", "", "", "missing", ""] and table.verdict[3] == "reject"
    assert "zlib" in table.reason[3] and (table.verdict.drop(3) == "accept").all()


def test_the_summary_counts_ranks_and_times_the_bleaching(frames):
    light = np.exp(-np.arange(T) / 12)  # half of it is gone after 8.3 frames
    fading, puncta_fade = (verdicts(np.stack([puncta((12, 64, 64), seed=5, background=100 * f**k,
                                                     peak=120 * f, n=13) for f in light])) for k in (1, 0))
    broken = frames.copy()
    broken[2], broken[9] = 300, broken[8]
    tables = {"fading": fading, "puncta": puncta_fade, "broken": verdicts(broken), "whole": verdicts(frames),
              "dark": verdicts(np.full_like(frames, 7))}
    rows = [movie_quality(table, dt_s=2.0, movie=name) for name, table in tables.items()]
    table = summarise(rows)
    assert list(table.columns) == SUMMARY and table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table.movie.tolist()[0] == "whole" and table.movie.tolist()[-1] == "dark"
    by = table.set_index("movie")
    assert (by.missing["broken"], by.repeated["broken"], by.rejected["broken"]) == (1, 1, 2)
    assert by.score["whole"] == pytest.approx(np.log2(by.snr["whole"] / 3.1)) and by.score["dark"] == 0
    assert by.score["broken"] == pytest.approx(10 / 12 * np.log2(by.snr["broken"] / 3.1))
    for name in ("fading", "puncta"):  # whether the background fades too or not
        assert by.half_life_s[name] == pytest.approx(24 * np.log(2), rel=0.2)
        assert 0 < by.half_life_sd_s[name] < 1
    # the wrong variants: the snr alone is in units of a noise that fades too; the light counts the background in
    of_snr, of_light = (half_life(fading[name], 2.0)[0] for name in ("snr", "light"))
    assert of_snr > 1.5 * 24 * np.log(2) and of_light < 0.6 * 24 * np.log(2)
    assert by.missing["dark"] == T and np.isnan(by.half_life_s["dark"])


def test_frames_are_ranked_for_the_gallery(frames):
    table = verdicts(frames)
    table.loc[4, "verdict"], table.loc[0, "verdict"] = "unsure", "reject"
    best = ranked(table)
    assert best.frame.tolist()[-1] == 0 and best.frame.tolist()[-2] == 4
    assert best.snr[:-2].is_monotonic_decreasing


def test_no_half_life_where_nothing_fades():
    t, rng = np.arange(40.0), np.random.default_rng(0)
    found = [half_life(100 + rng.normal(0, 5, 40))[0] for _ in range(50)]
    assert np.isnan(found).mean() > 0.9
    gappy = 100 * 2 ** (-t / 15) + rng.normal(0, 2, 40)
    gappy[5:9] = np.nan  # rejected frames keep their place in time
    assert half_life(gappy, 0.5)[0] == pytest.approx(7.5, rel=0.1)
    assert np.isnan(half_life(2 ** -t[:5])[0]) and np.isnan(half_life(np.full(40, np.nan))[0])
