"""Where foreground begins: Otsu where the histogram has two modes, decoys where it has not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellfm_nb.errors import InputError

FEW = 100                                                   # decoys


@dataclass(frozen=True)
class Otsu:
    """Otsu's threshold and what tells whether to believe it.

    separability : between-class over total variance, 0..1; a single Gaussian already reaches 2/pi = .64.
    valley : lowest density between the two class modes over the lower mode; 1 = there is no second mode.
    foreground : share of values above the threshold.
    """

    threshold: float
    separability: float
    valley: float
    foreground: float

    @property
    def bimodal(self) -> bool:
        """Return whether a valley parts two modes, the situation Otsu's method assumes."""
        return self.valley < 0.8


def otsu_threshold(values: np.ndarray, bins: int | None = 4096) -> float:
    """Return the threshold of greatest between-class variance; foreground is `values > threshold`.

    Parameters
    ----------
    values : array of any shape (a 3D volume is one population: no slice is thresholded by itself), finite.
    bins : number of equal histogram bins (class means are still those of the values); None = every cut, exact.

    Returns
    -------
    The largest value of the lower class. Otsu 1979, in its exact form w0 w1 (m0 - m1)^2.

    Raises
    ------
    InputError if the values are constant or not finite.
    """
    count, total, upper = class_cells(values, bins)
    return float(upper[between_variance(count, total).argmax()])


def class_cells(values: np.ndarray, bins: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (count, sum, largest value) of each occupied cell, in ascending order."""
    v = np.asarray(values, np.float64).ravel()
    if not len(v) or not np.isfinite(v).all() or v.min() == v.max():
        raise InputError("no threshold exists", where="values", got="constant, empty or non-finite values",
                         expected="finite values that differ", do="check the volume for a blank frame")
    if bins is None:
        upper, count = np.unique(v, return_counts=True)
        return count, upper * count, upper
    low, high = v.min(), v.max()
    cell = np.minimum(((v - low) * (bins / (high - low))).astype(np.int64), bins - 1)
    count, total = np.bincount(cell, minlength=bins), np.bincount(cell, v, minlength=bins)
    upper = np.full(bins, -np.inf)
    np.maximum.at(upper, cell, v)
    return count[count > 0], total[count > 0], upper[count > 0]


def between_variance(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return w0 w1 (m0 - m1)^2 for a cut after each cell but the last."""
    n0, s0 = np.cumsum(count)[:-1], np.cumsum(total)[:-1]
    n, s = count.sum(), total.sum()
    return n0 * (n - n0) / n**2 * (s0 / n0 - (s - s0) / (n - n0)) ** 2


def otsu(values: np.ndarray, bins: int | None = 4096) -> Otsu:
    """Return Otsu's threshold with its separability, the depth of the valley and the foreground share.

    "Bimodal by construction" must be tested: at a foreground of a fraction of a percent the second mode drowns in
    the tail of the first, the threshold slides into the noise, and `bimodal` is False.
    """
    count, total, upper = class_cells(values, bins)
    between = between_variance(count, total)
    cut = between.argmax()
    v = np.asarray(values, np.float64).ravel()
    return Otsu(float(upper[cut]), float(between[cut] / v.var()), valley_depth(v, float(upper[cut])),
                float((v > upper[cut]).mean()))


def valley_depth(values: np.ndarray, threshold: float) -> float:
    """Return the lowest density between the modes of the two classes over the lower of the two modes (<= 1).

    The density is a histogram smoothed over a robust Silverman width, on an asinh scale of the robust z-score, so
    that a bright tail does not squeeze the background into one bin.
    """
    from scipy.ndimage import gaussian_filter1d

    q25, middle, q75 = np.quantile(values, [0.25, 0.5, 0.75])
    scale = (q75 - q25) / 1.349 or values.std()
    z, cut = np.arcsinh((values - middle) / scale), float(np.arcsinh((threshold - middle) / scale))
    histogram, edges = np.histogram(z, 1024)
    step = edges[1] - edges[0]
    spread = min(z.std(), (np.quantile(z, 0.75) - np.quantile(z, 0.25)) / 1.349) or z.std()
    density = gaussian_filter1d(histogram.astype(float), max(2 * spread * len(z) ** -0.2 / step, 1.0))
    at = int(np.clip(np.searchsorted(edges, cut) - 1, 1, len(density) - 2))
    low, high = int(density[:at].argmax()), at + int(density[at:].argmax())
    return float(density[low : high + 1].min() / min(density[low], density[high]))


@dataclass(frozen=True)
class DecoyLaw:
    """The law of false scores, learned from decoys: how many per volume exceed a score.

    The empirical count up to the knee, log count(>= s) = a + b s + c s^2 beyond it (-1/2 <= c <= 0), and never less
    than the empirical count where decoys are too few to trust a curve.
    """

    sorted_scores: np.ndarray
    knee: float
    coefficients: tuple[float, float, float]

    def expected_above(self, scores: np.ndarray) -> np.ndarray:
        """Return the expected number of false candidates scoring at least `scores`."""
        s = np.asarray(scores, float)
        n = len(self.sorted_scores)
        empirical = n - np.searchsorted(self.sorted_scores, s, side="left")
        a, b, c = self.coefficients
        tail = np.exp(np.minimum(a + b * s + c * s**2, np.log(n + 1.0)))
        smooth = np.where(s <= self.knee, np.maximum(empirical, 1e-300), tail)
        return smooth if n >= FEW else np.maximum(smooth, empirical)

    def p_value(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability that a false candidate scores at least `scores`."""
        return np.clip(self.expected_above(scores) / max(len(self.sorted_scores), 1), 1e-300, 1.0)


def fit_decoys(decoy_scores: np.ndarray, floor: float = 0.0, n_tail: int = 12) -> DecoyLaw:
    """Fit the law of false scores to the maxima of the sign-flipped map.

    The noise is (near) symmetric and the signal is not, so minima of the score map are what its maxima would be
    without any object: Elias and Gygi's target-decoy idea, here with no null to be assumed. The flip must be of the
    map before the maximum over scales, max(-z), never -max(z). Beyond the `n_tail`-th highest decoy, counts are few
    and a Gaussian-like tail through the upper decoys goes on. `floor` is the score below which no candidate was kept.
    """
    s = np.sort(np.asarray(decoy_scores, float))
    if len(s) < 8:                                          # a tiny volume: a Gaussian tail from the floor on
        return DecoyLaw(s, -np.inf, (float(np.log(len(s) + 1) + floor**2 / 2), 0.0, -0.5))
    above = np.arange(len(s), 0, -1)                        # decoys at or above each score
    upper = slice(len(s) // 2, len(s) - min(3, len(s) // 4))  # the very last ones are the noisiest
    weight = np.sqrt(above[upper])                          # Poisson: sd of log n is 1 / sqrt(n)
    design = np.stack([np.ones(len(s))[upper], s[upper], s[upper] ** 2], 1)
    a, b, c = np.linalg.lstsq(design * weight[:, None], np.log(above[upper]) * weight, rcond=None)[0]
    bend = min(max(c, -0.5), 0.0)                           # between an exponential and a Gaussian of unit variance
    if c != bend or b + 2 * bend * s[-1] > 0:
        c = bend if b + 2 * bend * s[-1] <= 0 else 0.0
        b, a = np.polyfit(s[upper], np.log(above[upper]) - c * s[upper] ** 2, 1, w=weight)
    return DecoyLaw(s, float(s[max(len(s) - n_tail, 0)]), (float(a), float(b), float(c)))


def q_values(scores: np.ndarray, law: DecoyLaw) -> np.ndarray:
    """Return for each candidate the false discovery rate of the list that ends with it.

    FDR(s) = expected false candidates above s / candidates above s, made monotone from the weakest upwards
    (Storey's q-value with all decoys counted, so it errs on the strict side).
    """
    s = np.asarray(scores, float)
    order = np.argsort(-s, kind="stable")
    rate = law.expected_above(s[order]) / np.arange(1, len(s) + 1)
    q = np.empty(len(s))
    q[order] = np.minimum(np.minimum.accumulate(rate[::-1])[::-1], 1.0)
    return q


def fdr_threshold(scores: np.ndarray, law: DecoyLaw, fdr: float) -> float:
    """Return the lowest level above which the expected false discovery rate is <= `fdr` (inf if nothing passes)."""
    if not 0 < fdr < 1:
        raise InputError("the false discovery rate must lie between 0 and 1", where="fdr", got=fdr,
                         expected="0 < fdr < 1, e.g. 0.05", do="choose the share of false objects you accept")
    s = np.sort(np.asarray(scores, float))
    n = int((q_values(s, law) <= fdr).sum())
    if n == 0:
        return float("inf")
    below = s[len(s) - n - 1] if n < len(s) else 0.0        # the level may lie anywhere between two candidates
    levels = np.linspace(below, s[len(s) - n], 101)[1:]
    return float(levels[law.expected_above(levels) <= fdr * n][0])
