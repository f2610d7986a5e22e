"""Block masks: counts, volumes, connectedness (M1-M5, M7 of the reference)."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from scipy.stats import chisquare

from cellfm_nb.encoder import blob_filters
from cellfm_nb.pretrain.masks import (
    block_mask,
    block_shape,
    foreground,
    make_masks,
    mask_weights,
    toward_foreground,
)
from cellfm_nb.seeds import rng, torch_rng


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


def biased(share, rate, grid=(8, 8, 8), seeds=12):
    """Masks before and after, and a random foreground of the given rate."""
    n = int(np.prod(grid))
    seen = torch.from_numpy(rng(0, "foreground").random((seeds, n)) < rate)
    plain = torch.cat([make_masks(1, grid, (0.1, 0.5), 1.0, rng(k, "masks")) for k in range(seeds)])
    return plain, toward_foreground(plain, seen, grid, share, [rng(k, "bias") for k in range(seeds)]), seen


@pytest.mark.parametrize(("share", "rate"), [(0.9, 0.03), (0.6, 0.1), (1.0, 0.005)])
def test_masks_hide_the_share_of_the_foreground_asked_for(share, rate):  # M6
    plain, masks, seen = biased(share, rate)
    assert (masks.sum(1) == plain.sum(1)).all()  # as many tokens as before
    hidden = [float(m[s].float().mean()) for m, s in zip(masks, seen, strict=True) if s.any()]
    assert min(hidden) >= share - 1e-6
    assert np.mean([float(m[s].float().mean()) for m, s in zip(plain, seen, strict=True) if s.any()]) < 0.5  # control


def test_more_foreground_than_may_be_hidden_takes_it_all():  # M6
    plain, masks, seen = biased(1.0, 0.9)
    assert all(seen[i][masks[i]].all() for i in range(len(masks))) and (masks.sum(1) == plain.sum(1)).all()


def test_without_foreground_the_mask_is_the_unbiased_one():  # M6
    plain, masks, _ = biased(0.9, 0.0)
    assert torch.equal(plain, masks)
    none = torch.zeros_like(plain)
    assert not toward_foreground(none, ~none, (8, 8, 8), 0.9, [rng(0, "bias")] * len(none)).any()  # unmasked views


def test_biased_masks_are_still_blocks():  # M5, M6
    _, masks, seen = biased(0.9, 0.005)
    pieces = [label(m.view(8, 8, 8).numpy())[1] for m in masks]
    assert np.median(pieces) <= 5


def test_blobs_are_found_without_labels_and_noise_is_not():  # M6
    patch, blob = (4, 8, 8), blob_filters(1, (5, 9, 9), (0.25, 0.1, 0.1), sigmas_um=(0.12, 0.25))
    noise = torch.randn(20, 1, 16, 32, 32, generator=torch_rng(0, "noise"))
    assert foreground(noise, blob, patch).any(dim=1).float().mean() <= 0.1
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in (16, 32, 32)), indexing="ij")
    spot = 12 * torch.exp(-((z - 6) / 1.3) ** 2 / 2 - ((y - 12) / 1.4) ** 2 / 2 - ((x - 20) / 1.4) ** 2 / 2)
    seen = foreground(7 * (noise + spot) + 40, blob, patch)  # gain and offset don't matter
    assert seen[:, 1 * 16 + 1 * 4 + 2].all() and seen.sum(dim=1).float().mean() < 5


def test_same_key_same_masks():  # M7
    a, b, c = (make_masks(8, (4, 4, 4), (0.1, 0.5), 0.5, rng(0, "masks", step)) for step in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
