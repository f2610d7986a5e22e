"""Block masks: counts, volumes, connectedness (M1-M5, M7 of the reference)."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from scipy.stats import chisquare

from cellfm_nb.pretrain.masks import block_mask, block_shape, make_masks, mask_weights
from cellfm_nb.seeds import rng


@pytest.mark.parametrize("grid", [(10, 10, 10), (4, 4, 4), (7, 14, 14), (1, 6, 6)])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_count_is_exact(grid, ratio):  # M1
    count = int(ratio * np.prod(grid))
    for k in range(5):
        assert block_mask(grid, count, rng(k, "mask")).sum() == count


def test_the_set_share_of_views_is_masked_and_all_alike():  # M2
    hits = np.zeros(8)
    for step in range(300):
        masked = make_masks(8, (4, 4, 4), (0.1, 0.5), 0.5, rng(0, "masks", step)).any(dim=1).numpy()
        assert masked.sum() == 4
        hits += masked
    assert chisquare(hits).pvalue > 1e-3
    assert make_masks(7, (4, 4, 4), (0.1, 0.5), 0.5, rng(0, "masks")).any(dim=1).sum() == 3


def volume_ratio(draw, n=4000):
    g = rng(0, "volume")
    targets = g.uniform(10, 600, n)
    return np.mean([np.prod(draw(t, g)) / t for t in targets])


def test_block_volume_is_unbiased():  # M3
    assert volume_ratio(lambda t, g: block_shape(t, (14, 14, 14), g)) == pytest.approx(1, abs=0.03)


def test_negative_control_the_originals_block_volume_is_biased():
    def original(target, g):
        a, b = np.exp(g.uniform(np.log(0.3), np.log(1 / 0.3), 2))
        sides = target ** (1 / 3) * np.array([a, b, (1 / a) ** (1 / 3) / b * a ** (1 / 3) * (b / a) ** (1 / 3)])
        return sides

    g = rng(0, "spread")
    spread = [np.prod(original(100, g)) / 100 for _ in range(2000)]
    ours = [np.prod(block_shape(100, (14, 14, 14), g)) / 100 for _ in range(2000)]
    assert np.std(np.log(spread)) > 0.3
    assert np.std(ours) < np.std(spread)


def test_weights_count_each_masked_view_once():  # M4
    mask = make_masks(8, (4, 4, 4), (0.1, 0.5), 0.5, rng(0, "masks"))
    weights = mask_weights(mask)
    assert len(weights) == mask.sum()
    rows = mask.nonzero()[:, 0]
    assert weights.sum() == pytest.approx(4)
    for row in rows.unique():
        assert weights[rows == row].sum() == pytest.approx(1)


def test_blocks_are_compact():  # M5
    pieces, scattered = [], []
    for k in range(20):
        g = rng(k, "mask")
        pieces.append(label(block_mask((10, 10, 10), 300, g))[1])
        random = np.zeros(1000, bool)
        random[g.permutation(1000)[:300]] = True
        scattered.append(label(random.reshape(10, 10, 10))[1])
    assert np.median(pieces) <= 3 < np.median(scattered)


def test_same_key_same_masks():  # M7
    a, b, c = (make_masks(8, (4, 4, 4), (0.1, 0.5), 0.5, rng(0, "masks", step)) for step in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
