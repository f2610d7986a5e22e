"""Health of a representation: rank, spread, outliers, and what a linear probe reads from it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from cellfm_nb.errors import InputError


@dataclass(frozen=True)
class Health:
    """Label-free measures of (n, d) features; none proves quality alone, and each catches another failure."""

    rankme: float
    min_std_ratio: float
    outlier_rate: float
    n: int
    d: int


@dataclass(frozen=True)
class Probe:
    """Average precision of a probe, with the chance level (share of positives) beside it."""

    average_precision: float
    chance: float
    n_train: int
    n_test: int


def check_features(features: np.ndarray) -> np.ndarray:
    """Return features as finite (n, d) float64 or say what is wrong."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise InputError("features cannot be judged", where="features", got=f"shape {x.shape}",
                         expected="a finite array (n >= 2, d)", do="flatten tokens to (n, d), drop non-finite rows")
    return x


def rankme(features: np.ndarray, centred: bool = True) -> float:
    """Return the effective rank exp(entropy of normalised singular values) of (n, d) features.

    Garrido et al. 2023, with the mean removed first: without that one large constant direction (a bias shared by
    all tokens) hides the rank of what differs between tokens. 1 = collapsed, d = isotropic. Compare runs of one
    method only: a random network has a high rank too.
    """
    x = check_features(features)
    x = x - x.mean(0) if centred else x
    s = np.linalg.svd(x, compute_uv=False)
    p = s[s > s.max() * 1e-9] / s[s > s.max() * 1e-9].sum() if s.max() > 0 else np.ones(1)
    return float(np.exp(-(p * np.log(p)).sum()))


def min_std_ratio(features: np.ndarray) -> float:
    """Return the smallest standard deviation of a channel over the median one: 0 means a dead channel."""
    std = check_features(features).std(0)
    return float(std.min() / np.median(std)) if np.median(std) > 0 else 0.0


def norm_outlier_rate(features: np.ndarray, k: float = 8.0) -> float:
    """Return the share of tokens whose norm stands more than k robust deviations above the median norm.

    High-norm tokens are the sign of singular defects (Darcet et al. 2024; Wang et al. 2024). The deviation is the
    median absolute one of the lower half, so that a heavy upper tail cannot hide itself.
    """
    norm = np.linalg.norm(check_features(features), axis=1)
    middle = np.median(norm)
    spread = 1.4826 * np.median(middle - norm[norm <= middle])
    return float((norm > middle + k * max(spread, 1e-12 * middle)).mean())


def feature_health(features: np.ndarray) -> Health:
    """Return rank, spread and outliers of (n, d) features together."""
    x = check_features(features)
    return Health(rankme(x), min_std_ratio(x), norm_outlier_rate(x), *x.shape)


def channel_sum_contrast(features: np.ndarray) -> float:
    """Return the spread over tokens of the channel sum, relative to that of the tokens' other content.

    After a LayerNorm with gain 1 and bias 0 every token sums to zero: an "activation map" made by adding up
    channels is then constant, whatever the image (returns ~0). Any affine gain only hides the fault. A usable
    saliency has a contrast well above 0; a random direction gives about 1.
    """
    x = check_features(features)
    rest = np.sqrt(x.var(0).sum() / x.shape[1])
    return float((x.sum(1) / np.sqrt(x.shape[1])).std() / rest) if rest > 0 else 0.0


def linear_probe(
    features: np.ndarray, positive: np.ndarray, group: np.ndarray, test_groups: set | list, c: float = 1.0
) -> Probe:
    """Fit a logistic regression on some groups (frames) and score foreground tokens of the others.

    Parameters
    ----------
    features : (n, d) float array, one row a token.
    positive : (n,) bool, token holds foreground.
    group : (n,) frame (or movie) of each token: tokens of one frame never stand on both sides of the split.
    test_groups : groups held out.
    c : inverse strength of the ridge penalty; features are standardised on the training side.

    Returns
    -------
    Probe with the average precision (area under precision-recall), which unlike AUROC is not flattered by a
    foreground of a few percent.

    Raises
    ------
    InputError if either side lacks one of the two classes.
    """
    from sklearn.linear_model import LogisticRegression

    train, test, y_train, y_test = _sides(features, positive, group, test_groups)
    model = LogisticRegression(C=c, max_iter=300)  # unweighted: AP is read at the share of positives there is
    with warnings.catch_warnings():                          # 300 steps are enough for a ranking
        warnings.simplefilter("ignore")
        model.fit(train, y_train)
    return _probe(model.decision_function(test), y_test, y_train)


def knn_probe(
    features: np.ndarray, positive: np.ndarray, group: np.ndarray, test_groups: set | list, k: int = 20,
    temperature: float = 0.07,
) -> Probe:
    """Score foreground tokens by their k nearest neighbours in the other groups: nothing is fitted.

    Parameters as in `linear_probe`; k, neighbours (by cosine, of standardised features), each with a vote of
    exp(cosine / temperature), as Wu et al. 2018 and DINO (Caron et al. 2021) do. Returns and raises as `linear_probe`.
    """
    train, test, y_train, y_test = _sides(features, positive, group, test_groups)
    train, test = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train, test))
    k, votes = min(k, len(train)), np.empty(len(test))
    for first in range(0, len(test), 1024):
        cosine = test[first:first + 1024] @ train.T
        near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        weight = np.exp((np.take_along_axis(cosine, near, 1) - 1) / temperature)
        votes[first:first + 1024] = (weight * y_train[near]).sum(1) / weight.sum(1)
    return _probe(votes, y_test, y_train)


def _sides(features: np.ndarray, positive: np.ndarray, group: np.ndarray,
           test_groups: set | list) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training and test features, standardised on the training side, and their classes."""
    from sklearn.preprocessing import StandardScaler

    x, y = check_features(features), np.asarray(positive, bool)
    test = np.isin(group, list(test_groups))
    for name, side in (("training", ~test), ("test", test)):
        if len(np.unique(y[side])) < 2:
            raise InputError(f"the {name} side of the probe lacks a class", where="positive",
                             got=f"{int(y[side].sum())} positive of {int(side.sum())}",
                             expected="both classes on both sides", do="hold out other frames")
    scale = StandardScaler().fit(x[~test])
    return scale.transform(x[~test]), scale.transform(x[test]), y[~test], y[test]


def _probe(score: np.ndarray, positive: np.ndarray, trained: np.ndarray) -> Probe:
    from sklearn.metrics import average_precision_score

    return Probe(float(average_precision_score(positive, score)), float(positive.mean()), len(trained), len(positive))


def hand_statistics(volume: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """Return (n, 4) mean, standard deviation, maximum and 95th percentile of each patch: the floor to beat.

    `volume` (z, y, x) is cut into whole patches from the origin, as a patch embedding does; tokens run z, y, x.
    """
    v = patch_voxels(volume, patch)
    return np.stack([v.mean(1), v.std(1), v.max(1), np.quantile(v, 0.95, axis=1)], axis=1)


def patch_voxels(volume: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """Return (n, voxels) the flattened patches of a volume (z, y, x); a remainder at the far border is dropped."""
    grid = [s // p for s, p in zip(volume.shape, patch, strict=True)]
    v = volume[tuple(slice(0, g * p) for g, p in zip(grid, patch, strict=True))]
    v = v.reshape(grid[0], patch[0], grid[1], patch[1], grid[2], patch[2])   # gz, pz, gy, py, gx, px
    return v.transpose(0, 2, 4, 1, 3, 5).reshape(int(np.prod(grid)), -1)
