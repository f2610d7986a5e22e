"""LoG seeds: tiles equal the whole, the device changes nothing, scale and place of blobs in physical units."""

import numpy as np
import pytest
import torch

from cellfm_nb.seeds import rng
from cellfm_nb.segment.filters import log_response
from cellfm_nb.segment.seeds import log_scales, log_seeds

SPACING = (0.25, 0.1, 0.1)


def blobs(spacing=SPACING, shape=(20, 50, 50)):
    """Return a volume with one small and one large Gaussian, their places and sizes (um)."""
    grid = np.moveaxis(np.indices(shape), 0, -1) * spacing
    place, size = np.array([[2.0, 1.5, 1.5], [2.6, 3.2, 3.4]]), (0.2, 0.4)
    return sum(10 * np.exp(-0.5 * ((grid - p) ** 2).sum(-1) / s**2) for p, s in zip(place, size, strict=True)), place


def test_responses_are_those_of_one_scale_at_a_time():
    v = rng(0, "seeds").normal(size=(12, 30, 26)).astype(np.float32)
    both = log_scales(torch.from_numpy(v), np.array([[0.2] * 3, [0.35] * 3]) / SPACING).numpy()
    for response, s in zip(both, (0.2, 0.35), strict=True):
        np.testing.assert_allclose(response, log_response(v, SPACING, s), atol=2e-5)


@pytest.mark.parametrize("spacing, shape", [(SPACING, (20, 50, 50)), ((0.1, 0.1, 0.1), (50, 50, 50))])
def test_place_and_scale_are_physical(spacing, shape):
    volume, place = blobs(spacing, shape)
    seeds = log_seeds(volume.astype(np.float32), spacing, (0.16, 0.23, 0.33), 1.0).sort_values("z_um")
    np.testing.assert_allclose(seeds[["z_um", "y_um", "x_um"]], place, atol=0.02)
    assert seeds["scale"].tolist() == [0, 2]


def test_tiles_equal_the_whole():
    volume = (blobs()[0] + rng(1, "seeds").normal(size=(20, 50, 50))).astype(np.float32)
    whole = log_seeds(volume, SPACING, (0.2, 0.3), 0.3, tile=(99, 99, 99))
    parts = log_seeds(volume, SPACING, (0.2, 0.3), 0.3, tile=(7, 16, 20))
    assert len(whole) > 20
    np.testing.assert_allclose(parts.to_numpy(), whole.to_numpy(), atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu():
    volume = (blobs()[0] + rng(1, "seeds").normal(size=(20, 50, 50))).astype(np.float32)
    a, b = (log_seeds(volume, SPACING, (0.2, 0.3), 0.3, device=d) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(a.to_numpy(), b.to_numpy(), atol=1e-3)
