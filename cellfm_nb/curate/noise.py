"""The camera's noise, measured on the data itself: variance = gain * mean + const."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

from cellfm_nb.curate.background import background_spread, check_volume, despike, find_background, flat_fill, objects
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

SIXTH_DIFFERENCE = np.array([1, -6, 15, -20, 15, -6, 1], np.float32) / np.sqrt(924, dtype=np.float32)
TRIM = 0.9  # share of residuals kept per bin; the rest may be structure
TRIM_FACTOR = 0.6230  # variance of a Gaussian cut at its central 90%


@dataclass(frozen=True)
class NoiseModel:
    """Mean-variance line of a movie: var = gain * mean + const, in the units of its voxels.

    gain 0 means equal noise everywhere; offset, the darkest background; source, how this was found.
    """

    gain: float
    const: float
    offset: float
    source: str

    def variance(self, mean: np.ndarray | float) -> np.ndarray:
        """Return the noise variance at a mean intensity; below the darkest background it is that background's."""
        return np.maximum(self.gain * np.maximum(np.asarray(mean, float), self.offset) + self.const, 0.0)

    def read_noise_e(self, camera_offset: float) -> float:
        """Return the read noise in photoelectrons, given the counts the camera reads in the dark.

        An image alone tells the line, on which offset and read noise lie together: const = read^2 - gain offset.
        NaN where the noise is equal everywhere, and so no gain is known.
        """
        return float(np.sqrt(max(self.const + self.gain * camera_offset, 0)) / self.gain) if self.gain else np.nan


def fit_noise(frames: np.ndarray | Iterable[np.ndarray], n_bins: int = 32) -> NoiseModel:
    """Fit the mean-variance line from the voxels alone, without a calibration.

    Parameters: frames, one volume (z,y,x) or several of one movie; n_bins of local mean.
    Returns: NoiseModel. Sixth differences along y cancel smooth structure (a PSF-sized punctum leaks 4% of its
    height) and are untouched by the interpolation along x that deskewing does; their trimmed variance in bins of
    local mean is fitted by a robust, weighted line with a non-negative quadratic term that takes up what structure
    leaks. Where no positive slope can be told from zero the noise is taken as equal everywhere, and `source` says so.
    Correlated noise (deskewed, resampled) scales gain and const alike, which `normalize` undoes.
    After Foi et al. 2008 (Poisson-Gaussian noise from a single image) and Immerkaer 1996 (difference masks).
    Raises InputError on constant or non-finite volumes.
    """
    volumes = [frames] if isinstance(frames, np.ndarray) and frames.ndim == 3 else list(frames)
    parts = [residuals(check_volume(v, "fit_noise")) for v in volumes]
    mean, residual = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    if len(mean) < 1000:
        raise InputError("Too few voxels to measure noise.", got=f"{len(mean)} usable", expected="at least 1000",
                         do="Give a larger volume, or more frames.")
    level, dark = background_spread(mean)[0], float(np.quantile(mean, 0.01))
    centres, variances, counts = binned_variance(mean, residual, n_bins)
    v0, gain, sd_gain = fit_line(centres - level, variances, counts)
    told = f"{len(volumes)} volume{'s' * (len(volumes) > 1)}, {len(centres)} bins"
    if gain > 3 * sd_gain and gain * (centres[-1] - level) > 0.2 * v0:
        return NoiseModel(gain, v0 - gain * level, dark, f"mean-variance line from {told}")
    return NoiseModel(0.0, float(np.average(variances, weights=counts)), dark,
                      f"equal noise everywhere from {told}: variance does not grow measurably with the mean")


def fit_movie_noise(movie: Movie, c: int = 0, n_frames: int = 3) -> NoiseModel:
    """Fit one noise model to a channel of a movie, from its first, middle and last usable frames.

    Parameters: movie; c, channel; n_frames, spread evenly. Raises InputError when no frame can be used.
    """
    usable, complaint = [], None
    for t in np.unique(np.linspace(0, movie.n_frames - 1, n_frames).astype(int)):
        try:
            usable.append(check_volume(movie.frame(int(t), c), f"frame {t}"))
        except InputError as error:
            complaint = error
    if not usable:
        raise complaint
    return fit_noise(usable)


def residuals(volume: np.ndarray, limit: int = 2_000_000) -> tuple[np.ndarray, np.ndarray]:
    """Return (local mean, sixth difference along y) of voxels outside flat fill, a regular subset of <= limit."""
    step = -(-volume.size // limit)  # whole planes are skipped: y must stay contiguous
    some = volume[::step] if step < len(volume) else volume[len(volume) // 2 : len(volume) // 2 + 1]
    if some.shape[1] < 7:
        raise InputError("Planes are too small to measure noise.", got=f"{some.shape[1:]} voxels",
                         expected="at least 7 x 3", do="Use a larger volume.")
    flat = flat_fill(some)
    if flat.all():
        raise InputError("No noise to measure.", got="neighbouring voxels never differ", expected="camera noise",
                         do="Use raw data, not a mask or a rendering.")
    some = despike(some.astype(np.float32), ~flat)
    residual = ndimage.correlate1d(some, SIXTH_DIFFERENCE, axis=1)
    # the mean of an object is that of the voxels the residual is made of, each by its share in the variance (a plain
    # box mean is lower than that at a peak and higher beside it, which costs a third of the gain); that of background
    # over a wide area, or else voxels with a noisy mean (and the large residuals of noisy pixels) would gather in bins
    # of their own and bend the line
    background = find_background(some, (0, 12, 12))
    found = objects(some - background, ~flat, (0, 1.2, 1.2))
    nearby = ndimage.uniform_filter1d(ndimage.correlate1d(some, SIXTH_DIFFERENCE**2, axis=1), 3, axis=2)
    mean = np.where(found, nearby, background)
    use = ~ndimage.maximum_filter1d(flat, 7, axis=1)
    use[:, :3] = use[:, -3:] = False
    return mean[use], residual[use]


def binned_variance(mean: np.ndarray, residual: np.ndarray, n_bins: int
                    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per bin of local mean: the mean, the trimmed variance of the residuals, the count (>= 200)."""
    # half the bins by rank, half by level, so that the few bright voxels have bins of their own
    low, high = np.quantile(mean, [0.001, 0.9999])
    edges = np.unique(np.concatenate([np.quantile(mean, np.linspace(0, 1, n_bins // 2 + 1)),
                                      np.linspace(low, high, n_bins // 2 + 1)]))
    bin_of = np.clip(np.searchsorted(edges, mean, side="right") - 1, 0, max(len(edges) - 2, 0))
    order = np.argsort(bin_of, kind="stable")
    starts = np.searchsorted(bin_of[order], np.arange(len(edges)))
    rows = []
    for a, b in zip(starts[:-1], starts[1:], strict=True):
        if b - a >= 200:
            squares = residual[order[a:b]].astype(float) ** 2
            kept = np.partition(squares, int(TRIM * (b - a)))[: int(TRIM * (b - a))]
            rows.append((mean[order[a:b]].mean(), kept.mean() / TRIM_FACTOR, b - a))
    return tuple(np.array(rows, float).T)


def fit_line(x: np.ndarray, variance: np.ndarray, counts: np.ndarray, rounds: int = 10) -> tuple[float, float, float]:
    """Fit variance = v0 + gain x + q x^2 with all three >= 0, weighted and robust; return (v0, gain, sd of gain)."""
    scale = max(np.abs(x).max(), 1e-30)
    design = np.stack([np.ones_like(x), x / scale, (x / scale) ** 2], 1)
    fitted, robust = np.full_like(variance, np.average(variance, weights=counts)), np.ones_like(variance)
    for _ in range(rounds):
        # a variance from n residuals is known to sqrt(~5/n) of itself, and never better than 5%: bins hold structure
        weight = np.sqrt(robust) / (np.maximum(fitted, 1e-3 * variance.max()) * np.sqrt(5 / counts + 0.05**2))
        theta, _ = optimize.nnls(design * weight[:, None], variance * weight)
        fitted = design @ theta
        pull = np.abs(variance - fitted) * weight / np.sqrt(robust)
        robust = np.minimum(1, 1.5 / np.maximum(pull, 1e-9))
    active = theta > 0
    gram = (design[:, active] * weight[:, None]).T @ (design[:, active] * weight[:, None])
    sd = np.sqrt(np.diag(np.linalg.pinv(gram)))
    sd_gain = sd[np.flatnonzero(active).tolist().index(1)] if active[1] else np.inf
    return float(theta[0]), float(theta[1] / scale), float(sd_gain / scale)
