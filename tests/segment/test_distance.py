"""Distances within a mask against scipy's, for any shape, spacing and share of outside."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from cellfm_nb.seeds import rng
from cellfm_nb.segment.distance import depth


@pytest.mark.parametrize("seed", range(12))
def test_depth_is_the_euclidean_distance_transform(seed):
    draw = rng(seed, "depth")
    shape, spacing = draw.integers(1, 24, 3), draw.uniform(0.1, 3, 3)
    mask = draw.random(shape) > draw.choice([0.5, 0.05, 0.002])
    mask.flat[draw.integers(mask.size)] = False
    true = distance_transform_edt(mask, sampling=spacing)
    np.testing.assert_allclose(depth(mask, spacing), true, rtol=1e-12, atol=1e-12)
    near = depth(mask, spacing, within=1.5)
    np.testing.assert_array_equal(near > 1.5, true > 1.5)
    np.testing.assert_allclose(near[true <= 1.5], true[true <= 1.5], rtol=1e-12, atol=1e-12)
