"""The camera obeys its photon-transfer line, and its constants come back from a stack it took."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import Camera, camera_from_stack


def specimen(camera, level=12.0):
    """A stack of a smooth cell in the dark, taken by a camera."""
    z, y, x = np.mgrid[:12, :160, :160]
    inside = ((y - 80) / 55) ** 2 + ((x - 80) / 50) ** 2 < 1
    light = ndimage.gaussian_filter(inside * level * (1 + 0.8 * np.sin(x / 25) * np.sin(y / 31)), (0, 4, 4))
    return camera.expose(light, rng(5, "test", "specimen"))


def test_mean_and_variance_follow_the_line():
    camera = Camera(offset=100, gain=2.2, read_noise=1.4)
    for light in (0.0, 3.0, 40.0):
        counts = camera.expose(np.full((40, 100, 100), light), rng(0, "test", light)).astype(float)
        assert counts.mean() == pytest.approx(100 + 2.2 * light, abs=0.05)
        expected = 2.2**2 * (light + 1.4**2) + 1 / 12  # rounding to whole counts adds 1/12
        assert counts.var() == pytest.approx(expected, rel=0.02)


def test_counts_are_clipped_not_wrapped():
    camera = Camera(offset=2, gain=2, read_noise=3)
    dark = camera.expose(np.zeros((50, 50)), rng(0, "a"))
    assert dark.dtype == np.uint16 and dark.min() == 0 and dark.max() < 100
    assert (camera.expose(np.full((9, 9), 1e6), rng(0, "b")) == 65535).all()


@pytest.mark.parametrize("true", [Camera(98, 2.2, 1.5), Camera(200, 0.8, 2.5)])
def test_constants_are_recovered_from_a_stack(true):
    found = camera_from_stack(specimen(true, level=30 / true.gain))
    assert found.gain == pytest.approx(true.gain, rel=0.1)
    assert found.offset == pytest.approx(true.offset, abs=1.5)
    assert found.read_noise == pytest.approx(true.read_noise, abs=0.5)
    assert found.background == pytest.approx(30 / true.gain, rel=0.25)
    assert "gain and read noise measured" in found.source


def test_an_undetermined_line_falls_back_and_says_so():
    found = camera_from_stack(Camera(100, 3.0, 1.0).expose(np.zeros((8, 64, 64)), rng(0, "dark")))
    assert (found.gain, found.read_noise) == (Camera().gain, Camera().read_noise)
    assert found.offset == pytest.approx(100, abs=1.5) and "assumed" in found.source


def exact_distribution(x, light, read):
    """The distribution function of Poisson(light) + Normal(0, read^2): the oracle."""
    k = np.arange(int(light + 12 * np.sqrt(light) + 20))
    return (stats.poisson.pmf(k, light)[:, None] * stats.norm.cdf((x - k[:, None]) / read)).sum(0)


@pytest.mark.parametrize("light", [0.5, 3.0, 12.0, 100.0])
def test_quick_noise_has_the_exact_distribution_and_a_gaussian_does_not(light):
    read, n = 1.6, 1_000_000
    fine = Camera(offset=2000, gain=100, read_noise=read, quick=True)  # rounding to 0.01 photoelectrons
    taken = (fine.expose(np.full((10, 1000, n // 10000), light), rng(1, "quick", light)).ravel() - 2000.0) / 100
    x = np.linspace(light - 6 * np.sqrt(light + read**2), light + 8 * np.sqrt(light + read**2), 300)
    measured = np.searchsorted(np.sort(taken), x) / n
    exact = exact_distribution(x, light, read)
    assert np.abs(measured - exact).max() < 0.004
    assert taken.mean() == pytest.approx(light, abs=0.02) and taken.var() == pytest.approx(light + read**2, rel=0.01)
    assert np.abs(stats.norm.cdf(x, light, np.sqrt(light + read**2)) - exact).max() > 0.005


def test_quick_is_not_used_where_single_electrons_show():
    exact, quick = Camera(read_noise=0.3), Camera(read_noise=0.3, quick=True)
    light = np.full((4, 20, 20), 3.0)
    assert np.array_equal(exact.expose(light, rng(0, "a")), quick.expose(light, rng(0, "a")))


def test_hot_pixels_and_read_noise_are_fixed_to_the_pixels():
    camera = Camera(offset=100, gain=2, read_noise=1.5, hot_share=0.01, hot_electrons=80, read_spread=0.5)
    pixels = camera.pixels((100, 100), 7)
    assert all(np.array_equal(a, b) for a, b in zip(pixels, camera.pixels((100, 100), 7), strict=True))
    assert not np.array_equal(pixels[0], camera.pixels((100, 100), 8)[0])
    frames = np.array([camera.expose(np.zeros((5, 100, 100)), rng(t, "hot"), pixels) for t in range(40)], float)
    mean, sd = frames.mean((0, 1)), frames.std((0, 1))
    assert 60 <= (pixels[0] > 0).sum() <= 140 and pixels[0][pixels[0] > 0].mean() == pytest.approx(80, rel=0.3)
    assert np.abs((mean - 100) / 2 - pixels[0]).max() < 4 * np.sqrt(pixels[0].max() / 200)
    cold = pixels[0] == 0
    assert np.corrcoef(sd[cold], pixels[1][cold])[0, 1] > 0.98  # each pixel has its own read noise
    assert np.median(pixels[1]) == pytest.approx(1.5, rel=0.03)
    assert np.log(pixels[1]).std() == pytest.approx(0.5, rel=0.03)
    assert Camera().pixels((100, 100), 7) is None


@pytest.mark.parametrize("call", [
    lambda: Camera(hot_share=1.5), lambda: Camera(read_spread=-1),
    lambda: Camera(gain=0), lambda: Camera(read_noise=-1), lambda: Camera(offset=float("nan")),
    lambda: Camera().expose(np.array([-1.0]), rng(0, "x")), lambda: Camera().expose(np.array([np.nan]), rng(0, "x")),
    lambda: camera_from_stack(np.zeros((64, 64))), lambda: camera_from_stack(np.zeros((3, 8, 8))),
    lambda: camera_from_stack(np.full((3, 64, 64), np.inf))])
def test_bad_input_is_refused(call):
    with pytest.raises(InputError):
        call()
