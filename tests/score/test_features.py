"""Representation health: known ranks, dead channels, planted outliers, the channel-sum fault (G7), the probe."""

import numpy as np
import pytest

from cellfm_nb.errors import InputError
from cellfm_nb.score.features import (
    channel_sum_contrast,
    feature_health,
    hand_statistics,
    knn_probe,
    linear_probe,
    norm_outlier_rate,
    patch_voxels,
    rankme,
)
from cellfm_nb.seeds import rng


def test_rank_of_known_features():
    x = rng(0, "rank").normal(size=(4000, 16))
    assert rankme(x) == pytest.approx(16, rel=0.01)
    assert rankme(x[:, :4] @ rng(0, "mix").normal(size=(4, 16))) < 4.01
    assert rankme(np.outer(x[:, 0], np.ones(16))) == pytest.approx(1, abs=1e-6)


def test_rank_is_taken_after_centring():
    x = rng(1, "shift").normal(size=(2000, 16)) + 100.0
    assert rankme(x) > 15 and rankme(x, centred=False) < 2   # the uncentred variant sees only the mean


def test_dead_channel_and_planted_outliers():
    x = rng(2, "dead").normal(size=(1000, 8))
    x[:, 3] = 0
    assert feature_health(x).min_std_ratio == 0
    y = rng(2, "norm").normal(size=(1000, 64))
    assert norm_outlier_rate(y) == 0
    y[:20] *= 20
    assert norm_outlier_rate(y) == pytest.approx(0.02)


def test_channel_sum_is_degenerate_after_layer_norm():
    x = rng(3, "tokens").normal(size=(500, 32)) * rng(3, "scale").uniform(0.5, 5, (500, 1))
    normed = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    assert channel_sum_contrast(normed) < 1e-6               # the fault: a constant map, whatever the image
    assert channel_sum_contrast(x) > 0.5


def test_probe_reads_signal_and_not_noise_and_holds_frames_out():
    draw = rng(4, "probe")
    frame = np.repeat(np.arange(6), 300)
    y = draw.random(1800) < 0.1
    noise = draw.normal(size=(1800, 12))
    signal = noise + 3 * y[:, None] * np.eye(12)[0]
    good, bad = (linear_probe(x, y, frame, [4, 5]) for x in (signal, noise))
    assert good.average_precision > 0.8 > 0.3 > bad.average_precision
    assert good.n_train == 1200 and good.n_test == 600 and good.chance == pytest.approx(y[1200:].mean())


@pytest.mark.parametrize("k", [1, 20])
def test_neighbours_vote_as_scikit_learn_s_do(k):
    from sklearn.metrics import average_precision_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    draw = rng(5, "neighbours")
    frame, y = np.repeat(np.arange(4), 300), draw.random(1200) < 0.1
    x = draw.normal(size=(1200, 6)) + 2 * y[:, None] * np.eye(6)[0]
    got = knn_probe(x, y, frame, [3], k=k)
    scale = StandardScaler().fit(x[:900])
    train, test = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in map(scale.transform, (x[:900], x[900:])))
    model = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07))  # |a - b|^2 = 2 - 2 cosine
    want = average_precision_score(y[900:], model.fit(train, y[:900]).predict_proba(test)[:, 1])
    assert got.average_precision == pytest.approx(want, abs=1e-9) and got.n_test == 300
    noise = knn_probe(rng(6, "noise").normal(size=x.shape), y, frame, [3])
    assert k == 1 or got.average_precision > 3 * got.chance > 1.5 * noise.average_precision


def test_held_out_volumes_are_probed_token_by_token():
    import torch

    from cellfm_nb.score.held_out import HeldOut

    class Patches(torch.nn.Module):
        """An encoder that sees the mean and the spread of each patch of 2 x 4 x 4 voxels."""

        def __init__(self, blind):
            super().__init__()
            self.weight, self.blind = torch.nn.Parameter(torch.zeros(1)), blind

        def forward(self, x):
            cut = x[:, 0].unfold(1, 2, 2).unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).flatten(1, 3)  # (1, N, 32)
            self.patches = torch.stack([cut.mean(-1), cut.std(-1)], -1) * (0 if self.blind else 1)
            return self

    draw = rng(7, "held out")
    positive = draw.random((5, 4, 8, 8)) < 0.1
    volumes = draw.normal(size=(5, 8, 32, 32)) + positive.repeat(2, 1).repeat(4, 2).repeat(4, 3)
    held = HeldOut(volumes, positive.reshape(5, -1), (3, 4))
    seen, blind = held(Patches(False)), held(Patches(True))
    assert min(seen.values()) > 0.7 and max(blind.values()) < 0.2 and set(seen) == {"probe_ap", "knn_ap"}


def test_probe_without_positives_is_said():
    with pytest.raises(InputError, match="lacks a class"):
        linear_probe(np.ones((10, 2)), np.zeros(10, bool), np.arange(10), [9])


def test_patches_keep_their_voxels():
    v = np.arange(4 * 4 * 6, dtype=float).reshape(4, 4, 6)
    p = patch_voxels(v, (2, 2, 3))
    assert p.shape == (8, 12)
    np.testing.assert_array_equal(p[1], v[:2, :2, 3:].ravel())
    np.testing.assert_array_equal(hand_statistics(v, (2, 2, 3))[1, [0, 2]], [v[:2, :2, 3:].mean(), v[:2, :2, 3:].max()])
