"""Otsu against brute force (G1), when Otsu is meaningful, and false discoveries counted by decoys."""

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.segment.threshold import fdr_threshold, fit_decoys, otsu, otsu_threshold, q_values


def brute_force(values):
    """Return the threshold of greatest between-class variance by trying every value."""
    best = (-1.0, None)
    for t in np.unique(values)[:-1]:
        low, high = values[values <= t], values[values > t]
        between = len(low) * len(high) / len(values) ** 2 * (low.mean() - high.mean()) ** 2
        best = max(best, (between, t))
    return best[1]


def mixture(share, distance=8.0, n=200_000, seed=0):
    """Return background N(0, 1) with a share of foreground N(distance, 1)."""
    draw = rng(seed, "mixture")
    return draw.normal(size=n) + distance * (draw.random(n) < share)


@pytest.mark.parametrize("seed", range(6))
def test_otsu_equals_brute_force(seed):
    values = rng(seed, "otsu").gamma(2, 3, 300).round(seed % 3)
    assert otsu_threshold(values, bins=None) == brute_force(values)


def test_otsu_equals_skimage_within_a_bin():
    from skimage.filters import threshold_otsu

    values = mixture(0.3)
    width = np.ptp(values) / 512
    assert abs(otsu_threshold(values, 512) - threshold_otsu(values, 512)) <= 2 * width


def test_otsu_follows_affine_intensity():
    values = mixture(0.2, n=5000)
    t = otsu_threshold(values, bins=None)
    assert otsu_threshold(7 * values + 100, bins=None) == pytest.approx(7 * t + 100)
    assert ((values > t) == (7 * values + 100 > otsu_threshold(7 * values + 100))).mean() > 0.999


def test_volume_is_one_population():
    volume = rng(1, "slices").normal(size=(4, 20, 20)) + 50 * (np.arange(4) >= 2)[:, None, None]
    mask = volume > otsu_threshold(volume)
    assert not mask[:2].any() and mask[2:].all()            # slice by slice (the wrong way) each would be cut in two
    assert 0.2 < (volume[0] > otsu_threshold(volume[0])).mean() < 0.8


@pytest.mark.parametrize("share", [0.5, 0.2, 0.05])
def test_bimodal_mixture_is_recovered(share):
    result = otsu(mixture(share))
    assert result.bimodal and result.separability > 0.7
    assert result.foreground == pytest.approx(share, rel=0.05)


def test_otsu_fails_at_a_fraction_of_a_percent_and_says_so():
    values = mixture(0.0005)
    result = otsu(values)
    assert not result.bimodal                               # claim A31 does not hold here
    assert result.foreground > 0.3                          # the threshold fell into the noise: 600 x too many voxels
    assert otsu(rng(0, "noise").normal(size=100_000)).bimodal is False


def test_constant_volume_is_said():
    with pytest.raises(InputError, match="threshold"):
        otsu_threshold(np.ones((3, 3, 3)))
    with pytest.raises(InputError, match="threshold"):
        otsu_threshold(np.array([1.0, np.nan]))


def test_false_discovery_rate_is_the_stated_one():
    rates = []
    for seed in range(20):
        draw = rng(seed, "fdr")
        null, decoys = np.abs(draw.normal(size=2000)), np.abs(draw.normal(size=2000))
        true = draw.normal(4.5, 1, 100)
        scores = np.concatenate([null, true])
        threshold = fdr_threshold(scores, fit_decoys(decoys), 0.1)
        rates.append((null >= threshold).sum() / max((scores >= threshold).sum(), 1))
    assert 0.04 < np.mean(rates) < 0.15


def test_q_values_are_monotone_and_p_values_uniform():
    draw = rng(3, "q")
    decoys, null = draw.normal(size=4000) + 3, draw.normal(size=4000) + 3
    law = fit_decoys(decoys)
    q, order = q_values(null, law), np.argsort(-null)
    assert (np.diff(q[order]) >= 0).all() and q.min() > 0.2
    p = np.sort(law.p_value(null))
    assert np.abs(p - (np.arange(4000) + 0.5) / 4000).max() < 0.04


def test_tail_goes_on_beyond_the_last_decoy():
    decoys = np.abs(rng(4, "tail").normal(size=3000)) + 2
    law = fit_decoys(decoys)
    above = law.expected_above(decoys.max() + np.array([0.1, 1.0, 3.0]))
    assert above[0] < 3 and (np.diff(above) < 0).all() and above[2] < 0.05


@pytest.mark.parametrize("fdr", [0, 1, -0.1])
def test_bad_rate_is_said(fdr):
    with pytest.raises(InputError, match="false discovery"):
        fdr_threshold(np.arange(10.0), fit_decoys(np.arange(10.0)), fdr)
