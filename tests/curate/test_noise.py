import numpy as np
import pytest

from cellfm_nb.curate import deskew, fit_movie_noise, fit_noise
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

from .twin import puncta


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("peak", [20, 300])
def test_finds_gain_and_noise(gain, peak):
    noise = fit_noise(puncta((32, 128, 128), gain=gain, peak=peak))
    assert noise.gain == pytest.approx(gain, rel=0.2)
    level = 100 + 100 * gain  # noise at the background: gain^2 (light + read^2)
    assert noise.variance(level) == pytest.approx(gain**2 * (100 + 1.6**2), rel=0.06)


def test_structure_is_not_taken_for_noise():
    """Negative control: the plain variance in bins of brightness counts puncta as noise."""
    picture = puncta((32, 128, 128), gain=1.0, peak=2000, n=100)
    assert fit_noise(picture).gain == pytest.approx(1.0, rel=0.12)
    blocks = picture.reshape(8, 4, 32, 4, 32, 4).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 64).astype(float)
    assert np.polyfit(blocks.mean(1), blocks.var(1), 1)[0] > 10


def test_read_noise_follows_from_the_offset():
    flat = np.random.default_rng(0).poisson(np.linspace(1, 60, 96), (24, 96, 96)) * 2.0
    noise = fit_noise(flat + 100 + 2 * 3.0 * np.random.default_rng(1).standard_normal(flat.shape))
    assert noise.gain == pytest.approx(2, rel=0.1) and noise.read_noise_e(100) == pytest.approx(3, rel=0.2)
    assert np.isnan(fit_noise(np.random.default_rng(0).normal(5, 1, (20, 64, 64))).read_noise_e(0))


def test_units_and_number_types(picture):
    counts = fit_noise(picture)
    scaled = fit_noise((picture / 65535).astype(np.float32))
    assert scaled.gain * 65535 == pytest.approx(counts.gain, rel=0.02)
    assert scaled.const * 65535**2 == pytest.approx(counts.const, rel=0.02)
    eight = fit_noise((picture // 2).clip(0, 255).astype(np.uint8))
    assert eight.variance(100) == pytest.approx((counts.variance(200) + 1 / 3) / 4, rel=0.1)


def test_interpolation_along_x_keeps_the_line(picture):
    """Deskewing averages the noise along x: gain and variance shrink by one factor, and fill is not counted."""
    raw = fit_noise(picture)
    skewed = fit_noise(deskew(picture, 0.1, 0.3, 31.5)[0])
    assert skewed.gain < raw.gain
    factor = skewed.variance(200) / raw.variance(200)
    assert 0.5 < factor < 0.9 and skewed.gain / raw.gain == pytest.approx(factor, rel=0.25)


def test_equal_noise_is_said(picture):
    rng = np.random.default_rng(0)
    flat = fit_noise(rng.normal(0.5, 0.01, (20, 64, 64)))
    assert flat.gain == 0 and "equal noise" in flat.source
    assert flat.const == pytest.approx(1e-4, rel=0.05)


def test_several_frames_and_a_movie():
    frames = np.stack([puncta(seed=s) for s in range(3)])
    movie = Movie.from_array(frames, spacing_um=(0.25, 0.1, 0.1))
    assert fit_movie_noise(movie) == fit_noise(list(frames))
    frames[0] = 7  # an unusable frame is passed over
    assert fit_movie_noise(Movie.from_array(frames, spacing_um=(0.25, 0.1, 0.1))) == fit_noise([frames[1], frames[2]])


@pytest.mark.parametrize("bad", [np.full((9, 64, 64), 3), np.full((9, 64, 64), np.nan), np.zeros((64, 64)),
                                 np.ones((3, 3, 3)) * np.arange(3), (np.indices((9, 64, 64))[0] > 4).astype(np.uint8)])
def test_nothing_to_fit(bad):
    with pytest.raises(InputError):
        fit_noise(bad)


def test_a_damaged_frame_is_passed_over_wherever_it_is(tmp_path):
    """The fit looks at the first, middle and last frame: damage there must not cost the movie."""
    frames = np.stack([puncta(seed=s) for s in range(5)])
    Movie.from_array(frames, spacing_um=(0.25, 0.1, 0.1)).save(tmp_path / "m.ome.zarr")
    files = (p for p in sorted((tmp_path / "m.ome.zarr" / "0").rglob("*")) if p.is_file())
    chunk = next(p for p in files if "c/2/" in p.as_posix())
    chunk.write_bytes(chunk.read_bytes()[:20])
    movie = Movie.open(tmp_path / "m.ome.zarr")
    with pytest.raises(InputError, match="can't be read"):
        movie.frame(2)
    assert fit_movie_noise(movie).gain > 0
