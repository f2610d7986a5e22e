"""Grey values (N3 of the reference): noise has the effect asked for, and none when it comes before scaling."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from cellfm_nb.augment import add_camera_noise, blur, change_contrast, place_views, recorrupt, split_noise
from cellfm_nb.augment.photometry import photons
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import torch_rng

STILL = (1.0, 1.0)


def flat(level, shape=(1, 20, 50, 50)):
    return torch.full(shape, float(level))


def scaled(v):
    return (v - v.min()) / (v.max() - v.min())


@pytest.mark.parametrize("read", [0.1, 0.5])
def test_noise_has_the_effect_asked_for(read):  # N3
    clean = scaled(torch.rand(1, 20, 50, 50, generator=torch_rng(0, "raw")))
    noisy = add_camera_noise(clean, (0, 0), (read, read), torch_rng(0, "n"))
    assert (noisy - clean).std() == pytest.approx(read, rel=0.05)


def test_negative_control_noise_before_scaling_has_none():
    """The original: sigma 0.1 on 16-bit counts, then min-max to [0, 1]."""
    raw = 100 + 4000 * torch.rand(1, 20, 50, 50, generator=torch_rng(0, "raw"))
    noisy = raw + 0.1 * torch.randn(raw.shape, generator=torch_rng(0, "n"))
    assert (scaled(noisy) - scaled(raw)).std() != pytest.approx(0.1, rel=0.05)
    assert (scaled(noisy) - scaled(raw)).std() < 1e-3 * 0.1
    with pytest.raises(InputError, match="after normalisation"):
        add_camera_noise(raw.to(torch.int32), (0, 0), (0.1, 0.1), torch_rng(0, "n"))


@pytest.mark.parametrize("level", [0.02, 0.3, 1.0])
def test_shot_noise_grows_with_the_light(level):  # N3: variance = gain * level + read^2, mean kept, dark included
    out = add_camera_noise(flat(level), (0.01, 0.01), (0.02, 0.02), torch_rng(0, "n"))
    assert out.var() == pytest.approx(0.01 * level + 0.02**2, rel=0.05)
    assert out.mean() == pytest.approx(level, abs=0.003)


@pytest.mark.parametrize("rate", [0.0, 0.3, 5.0, 15.9, 16.1, 400.0])
def test_photons_are_poisson(rate):  # oracle: scipy
    rates = torch.full((20_000,), rate, dtype=torch.float64)
    counts = photons(rates, torch_rng(0, "p")).numpy()
    u = torch.rand(20_000, generator=torch_rng(0, "p"), dtype=torch.float64).numpy()
    away = np.abs(counts - stats.poisson.ppf(u, rate))
    assert away.max() == 0 if rate < 16 else (away.max() <= 1 and away.mean() < 0.02)


def test_every_view_has_its_own_draw():
    views = flat(1.0, (3, 4, 1, 8, 16, 16))
    sd = add_camera_noise(views, (0, 0), (0.1, 2.0), torch_rng(0, "n")).flatten(2).std(-1)
    assert sd.min() < 0.5 and sd.max() > 1.2 and sd.unique().numel() == 12


def test_the_two_noisy_copies_are_independent():
    noise = torch.randn(1, 6, 1, 24, 64, 64, generator=torch_rng(0, "noise"))  # an image of noise alone
    a, b = recorrupt(noise, (0.5, 0.6), torch_rng(1, "noise"))
    assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.005
    assert abs(torch.corrcoef(torch.stack([a.flatten(), noise.flatten()]))[0, 1]) > 0.8  # the plain pair is not


def test_contrast_keeps_order_sign_and_pivot():  # N2
    y = torch.linspace(-5, 20, 401).view(1, 1, 1, 1, 1, 401)
    out = change_contrast(y, (0.8, 1.25), (0.9, 1.1), torch_rng(0, "c")).flatten()
    assert (out.diff() > 0).all() and torch.equal(out.sign(), y.flatten().sign())
    assert torch.allclose(change_contrast(y, STILL, STILL, torch_rng(0, "c")), y, atol=1e-5)
    bent = change_contrast(flat(3.0), STILL, (0.5, 2.0), torch_rng(0, "c"))
    assert torch.allclose(bent, flat(3.0))


@pytest.mark.parametrize("sigma", [0.08, 0.2])
def test_blur_is_a_gaussian_in_micrometres(sigma):  # oracle: scipy
    x = torch.rand(2, 1, 12, 30, 30, generator=torch_rng(0, "x"), dtype=torch.float64)
    out = blur(x, (sigma, sigma), (0.25, 0.1, 0.1), torch_rng(0, "b"), elongation=2.5)
    px = [sigma * 2.5 / 0.25, sigma / 0.1, sigma / 0.1]
    radius = [max(1, int(3 * p + 0.5)) for p in px]
    want = ndimage.gaussian_filter(x.numpy(), px, radius=radius, axes=(2, 3, 4), mode="nearest")
    assert torch.allclose(out, torch.from_numpy(want), atol=1e-6)
    assert torch.allclose(blur(x, (0, 0), (0.25, 0.1, 0.1), torch_rng(0, "b")), x)


def everything(views, generator):
    """The whole stack, in its order: cut, blur, contrast, noise."""
    big, _ = place_views(len(views), views.shape[2:], (8, 16, 16), (4, 8, 8), 0, 0.5, generator, scale=(0.8, 1.25))
    out = blur(big.cut(views), (0.0, 0.1), (0.25, 0.1, 0.1), generator)
    out = change_contrast(out, (0.8, 1.25), (0.8, 1.2), generator)
    return add_camera_noise(out, (0.0, 0.05), (0.5, 0.6), generator)


def test_same_seed_same_view():  # N6
    x = torch.randn(3, 1, 12, 24, 24, generator=torch_rng(0, "x"))
    a, b, c = (everything(x, torch_rng(seed, "all")) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_each_sample_s_own_generator_draws_for_it_alone():  # N6; on a GPU: tests/gpu/test_views.py
    x = torch.randn(2, 3, 1, 8, 16, 16, generator=torch_rng(0, "x"))

    def grey(views, samples):
        keys = [torch_rng(1, "grey", i) for i in samples]
        return add_camera_noise(change_contrast(views, (0.8, 1.25), (0.8, 1.2), keys), (0.0, 0.05), (0.5, 0.6), keys)

    whole = grey(x, range(3))
    assert torch.equal(whole[:, 1:2], grey(x[:, 1:2], [1])) and not torch.equal(whole[:, 1:2], grey(x[:, 1:2], [2]))


def test_halves_of_a_picture_share_no_noise():
    noise = torch.randn(1, 1, 40, 60, 60, generator=torch_rng(0, "half"))
    a, b = split_noise(noise + 3, torch_rng(1, "half"))
    assert a.std() == pytest.approx(1, abs=0.01) and b.std() == pytest.approx(1, abs=0.01)
    assert a.mean() == pytest.approx(3 / 2**0.5, abs=0.02)
    assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] == pytest.approx(0, abs=0.01)
