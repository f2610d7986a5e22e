"""From responses to tokens: rasters, cells, their statistics, rivals."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from cellfm_nb.encoder.filters import filter_size
from cellfm_nb.encoder.patches import Rivalry, asinh, cell_statistics, raster, to_cells
from cellfm_nb.seeds import torch_rng


@pytest.mark.parametrize(("spacing", "patch", "step"), [((0.25, 0.1, 0.1), (4, 8, 8), (1, 2, 2)),
                                                        ((0.1, 0.1, 0.1), (8, 8, 8), (2, 2, 2)),
                                                        ((0.25, 0.0655, 0.0655), (4, 9, 9), (1, 3, 3)),
                                                        ((1.0, 0.3, 0.3), (2, 7, 7), (1, 1, 1))])
def test_raster_divides_the_patch_and_stays_below_the_blobs(spacing, patch, step):
    assert raster(patch, spacing) == step
    assert all(k % 2 == 1 for k in filter_size(spacing))


def test_cells_and_their_statistics():
    x = torch.arange(2 * 4 * 4 * 4.0).view(1, 2, 4, 4, 4)
    cells = to_cells(x, (2, 2, 2))
    assert cells.shape == (1, 8, 2, 8)
    assert set(cells[0, 0, 0].tolist()) == {0.0, 1.0, 4.0, 5.0, 16.0, 17.0, 20.0, 21.0}
    stats = cell_statistics(cells)
    assert stats.shape == (1, 8, 6)
    assert stats[0, 0, 0] == 10.5 and stats[0, 0, 2] == 21.0


def test_responses_are_compressed_by_asinh_and_so_are_their_gradients():
    x = torch.cat([torch.linspace(-300, 300, 4001), torch.linspace(-1e-3, 1e-3, 101), torch.zeros(1)])
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    torch.testing.assert_close(asinh(ours).double(), torch.asinh(exact), atol=1e-6, rtol=1e-6)
    gradients = [torch.autograd.grad(f(v).sum(), v)[0].double() for f, v in ((asinh, ours), (torch.asinh, exact))]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        assert torch.equal(asinh(x), asinh(ours.detach().requires_grad_()))


def told(volume, spacing=(0.25, 0.1, 0.1), patch=(4, 8, 8)):
    """Sources expected in each patch and the largest claim there, of a response (Z, Y, X) to one filter."""
    rivalry = Rivalry(spacing)
    margin = [n for m in rivalry.margin[::-1] for n in (m, m)]
    return rivalry(torch.nn.functional.pad(volume[None, None], margin), patch)[0, :, :2]


def test_rivals_count_a_spot_once_and_noise_hardly_ever():
    noise = torch.randn(24, 64, 64, generator=torch_rng(0, "noise"))
    assert told(noise)[:, 0].mean() < 0.1
    z, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in (24, 64, 64)), indexing="ij")
    spot = 9 * torch.exp(-((z - 9.5) ** 2 + (y - 27.5) ** 2 + (x - 27.5) ** 2) / 4)  # at the corner of eight patches
    assert told(noise + spot)[:, 0].sum() - told(noise)[:, 0].sum() == pytest.approx(1, abs=0.25)
    assert (told(spot)[:, 1] > 0.5).sum() >= 1
    flanks = told(torch.where(spot > 0.9 * spot.max(), 0.0, spot))[:, 0].sum()  # no peak: its flanks claim it
    assert flanks > 0.9


def test_rivals_agree_with_the_sum_written_out():
    response = 3 * torch.randn(8, 16, 16, generator=torch_rng(1, "noise")).abs()
    rivalry = Rivalry((0.25, 0.1, 0.1))
    assert rivalry.window == (3, 5, 5) and rivalry.blur == (3, 3, 3) and rivalry.margin == (2, 3, 3)
    ours = rivalry(response[None, None], (4, 5, 5))[0]  # 4 x 10 x 10 voxels inside the margin
    odds = 0.04 * 0.25 * 0.1 * 0.1 * np.exp(response.double().numpy().clip(0, 10) ** 2 / 2)
    share = odds / (1 + uniform_filter(odds, (3, 5, 5)) * 75)
    claim = (uniform_filter(share, 3) * 27)[2:6, 3:13, 3:13]
    first = claim[:, :5, :5]
    np.testing.assert_allclose(ours[0, :2], [first.sum() / 27, first.max()], rtol=1e-4)
    np.testing.assert_allclose(ours[0, 2:], np.log1p(1000 * ours[0, :2].numpy()) / 3, rtol=1e-4)
