"""From tokens to voxels: torch's trilinear interpolation, slab by slab."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cellfm_nb.seeds import rng
from cellfm_nb.stream.upsample import upsample


@pytest.mark.parametrize("planes", [1, 7, 100])
def test_equals_torch(planes):
    features, patch, shape = rng(0, "up").normal(size=(4, 5, 3, 6)).astype(np.float32), (4, 8, 8), (14, 37, 24)
    whole = F.interpolate(torch.from_numpy(features).permute(3, 0, 1, 2)[None], scale_factor=patch, mode="trilinear")
    slabs = list(upsample(features, patch, shape, planes))
    assert [z for z, _ in slabs] == list(range(0, 14, planes))
    ours = np.concatenate([slab for _, slab in slabs])
    assert ours.shape == (*shape, 6) and ours.dtype == np.float32
    assert np.allclose(ours, whole[0].permute(1, 2, 3, 0).numpy()[:14, :37, :24], atol=1e-5)


def test_one_token_fills_its_voxels():
    (_, slab), = upsample(np.full((1, 1, 1, 2), 3, np.float16), (4, 8, 8), (4, 8, 8))
    assert (slab == 3).all()
