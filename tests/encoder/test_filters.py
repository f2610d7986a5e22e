"""The filters: physical units, matched-filter scale, products equal to dense kernels, and their gradients."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cellfm_nb.encoder import Encoder, EncoderConfig, filters
from cellfm_nb.encoder.filters import DenseFilters, SeparableFilters, blob_filters, filter_size
from cellfm_nb.seeds import torch_rng

SPACING = (0.25, 0.1, 0.1)


def test_filters_are_gaussians_of_the_given_size_in_micrometres():
    spacing, kernel = (0.25, 0.1, 0.1), (13, 21, 21)
    bank = blob_filters(1, kernel, spacing, sigmas_um=(0.2,), elongation=2.5)[0, 0].numpy()
    impulse = np.zeros(kernel)
    impulse[6, 10, 10] = 1
    want = gaussian_filter(impulse, (0.2 * 2.5 / 0.25, 2, 2), truncate=6)
    assert np.abs(bank / bank.sum() - want).max() < 0.02 * want.max()


def test_white_noise_of_unit_variance_gives_responses_of_unit_variance():
    bank = blob_filters(8, (5, 9, 9), (0.25, 0.1, 0.1))
    noise = torch.randn(1, 1, 24, 64, 64, generator=torch_rng(0, "noise"))
    spread = torch.nn.functional.conv3d(noise, bank).std(dim=(0, 2, 3, 4))
    torch.testing.assert_close(spread, torch.ones(len(bank)), atol=0.1, rtol=0)


def written_out(channels, kernel, spacing, sigmas=(0.1, 0.16, 0.25, 0.4)):
    """The bank after its definition: Gaussians of sum 1, their differences, each of norm 1."""
    z, y, x = np.meshgrid(*((np.arange(k) - k // 2) * s for k, s in zip(kernel, spacing, strict=True)), indexing="ij")
    gaussians = [np.exp(-((z / 2.5) ** 2 + y**2 + x**2) / (2 * s**2)) for s in sigmas]
    gaussians = [g / g.sum() for g in gaussians]
    bank = [fine - coarse for fine, coarse in pairwise(gaussians)] + gaussians
    return torch.from_numpy(np.stack([f / np.linalg.norm(f) for f in bank[:channels]]))[:, None]


@pytest.mark.parametrize("spacing", [SPACING, (0.1, 0.1, 0.1), (1.0, 0.3, 0.3)])
def test_the_bank_is_what_it_is_defined_to_be(spacing):
    kernel = filter_size(spacing)
    np.testing.assert_allclose(blob_filters(9, kernel, spacing), written_out(9, kernel, spacing), atol=1e-6)


@pytest.fixture
def blobs():
    """Filters that start as blobs, in float64, with biases: empty space then isn't silent."""
    made = SeparableFilters(6, filter_size(SPACING)).double()
    made.set_blobs(SPACING)
    with torch.no_grad():
        made.mix.bias.normal_(generator=torch_rng(0, "bias"))
    return made


@pytest.mark.parametrize("rows", [3, 96])
@pytest.mark.parametrize("shape", [(9, 14, 20), (1, 1, 1), (12, 7, 31)])
@pytest.mark.parametrize("beyond", [(0, 0, 0), (2, 3, 3), (5, 6, 7)])
def test_products_give_what_dense_kernels_give(blobs, rows, shape, beyond, monkeypatch):
    """Whatever the size, beyond the border, and however the band is cut (more beyond than the kernel's reach too)."""
    monkeypatch.setattr(filters, "ROWS", rows)
    x = torch.randn(2, 1, *shape, generator=torch_rng(0, "voxels"), dtype=torch.float64)
    bank = written_out(6, blobs.kernel, SPACING)
    padding = [k // 2 + n for k, n in zip(blobs.kernel, beyond, strict=True)]
    want = torch.nn.functional.conv3d(x, bank, blobs.mix.bias, padding=padding)
    torch.testing.assert_close(blobs(x, beyond), want, atol=1e-6, rtol=0)
    dense = DenseFilters(6, blobs.kernel).double()
    with torch.no_grad():
        dense.weight.copy_(bank)
        dense.bias.copy_(blobs.mix.bias)
    torch.testing.assert_close(dense(x, beyond), want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rows", [3, 96])
def test_responses_that_lack_a_voxel_can_be_left_out(blobs, rows, monkeypatch):
    monkeypatch.setattr(filters, "ROWS", rows)
    x = torch.randn(1, 1, 9, 14, 20, generator=torch_rng(0, "voxels"), dtype=torch.float64)
    lost = tuple(-(k // 2) for k in blobs.kernel)
    torch.testing.assert_close(blobs(x, lost), blobs(x)[:, :, 2:-2, 4:-4, 4:-4])


@pytest.mark.parametrize("rows", [3, 96])
def test_gradients_are_those_of_finite_differences(rows, monkeypatch):
    monkeypatch.setattr(filters, "ROWS", rows)
    small = SeparableFilters(3, (3, 5, 3), scales=2).double()
    draw = torch_rng(0, "taps")
    with torch.no_grad():
        for p in small.parameters():
            p.normal_(generator=draw)
    x = torch.randn(2, 1, 3, 4, 7, generator=draw, dtype=torch.float64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(small, dict(zip(names, values, strict=True)), (x, (1, 0, 1)))

    names = [name for name, _ in small.named_parameters()]
    assert torch.autograd.gradcheck(run, (x, *small.parameters()))


def test_the_stem_starts_from_the_bank_and_more_channels_than_blobs_differ():
    stem = Encoder(EncoderConfig(width=32, depth=1, heads=2, stem_channels=9), seed=1).stem
    impulse = torch.zeros(1, 1, *stem.filters.kernel)
    impulse[(0, 0, *(k // 2 for k in stem.filters.kernel))] = 1
    with torch.no_grad():
        found = stem.filters(impulse)[0]  # blobs are their own mirror images
    torch.testing.assert_close(found[:7, None], blob_filters(9, stem.filters.kernel, SPACING), atol=1e-6, rtol=0)
    assert (found[7] - found[8]).norm() > 0.1


def test_autocast_to_bfloat16_stays_far_below_the_noise(blobs):
    x, blobs = torch.randn(1, 1, 12, 30, 30, generator=torch_rng(0, "voxels")), blobs.float()
    with torch.autocast("cpu", torch.bfloat16):
        low = blobs(x)
        low.sum().backward()
    assert low.dtype == torch.bfloat16 and blobs.x.grad.isfinite().all()
    assert (low - blobs(x)).std() < 0.02
