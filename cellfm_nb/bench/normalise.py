"""Stretch and percentiles of 64 x 512 x 512 uint16 beside numpy's histogram, numpy's percentile, scikit-image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cellfm_nb.bench import Row, alternate
from cellfm_nb.curate.stretch import SHARE, histogram_normalize, percentiles, stretch_limits
from cellfm_nb.seeds import rng

SHAPE = (64, 512, 512)


def picture(seed: int = 0) -> np.ndarray:
    """Return counts (z,y,x) uint16: a background with 0.5% bright voxels and a few hot ones."""
    draw = rng(seed, "bench normalise")
    light = draw.normal(300, 60, SHAPE) + (draw.random(SHAPE) > 0.995) * draw.exponential(2000, SHAPE)
    light.flat[draw.integers(0, light.size, light.size // 10000)] = 65000
    return np.clip(light, 0, 65535).astype(np.uint16)


def numpy_limits(volume: np.ndarray) -> tuple[float, float]:
    """The rule by the book: a histogram of all 65536 values, counted in from both sides."""
    counts, k = np.histogram(volume, 65536, (0, 65536))[0], int(volume.size * SHARE)
    return float(np.argmax(counts.cumsum() > k)), float(65535 - np.argmax(counts[::-1].cumsum() > k))


def numpy_rule(volume: np.ndarray) -> np.ndarray:
    low, high = numpy_limits(volume)
    return np.clip((volume.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)


def rows() -> Iterator[Row]:
    """Compare numbers first, then time."""
    from skimage.exposure import rescale_intensity

    def skimage_rule() -> np.ndarray:
        return rescale_intensity(volume, tuple(np.percentile(volume, (100 * SHARE, 100 - 100 * SHARE))), (0.0, 1.0))

    volume = picture()
    q = [0.1, 1, 50, 99, 99.9, 99.99]
    off = float(np.abs(percentiles(volume, q) - np.percentile(volume, q)).max())
    yield Row("percentiles against numpy", "max difference", "lower", off, target=0)
    off = float(np.abs(np.subtract(stretch_limits(volume), numpy_limits(volume))).max())
    yield Row("limits against np.histogram", "max difference", "lower", off, target=0)
    off = float(np.abs(histogram_normalize(volume) - numpy_rule(volume)).max())
    yield Row("stretched against np.histogram", "max difference", "lower", off, target=0)
    spent = alternate({"limits": lambda: stretch_limits(volume), "np.histogram": lambda: numpy_limits(volume),
                       "whole": lambda: histogram_normalize(volume), "np.histogram rule": lambda: numpy_rule(volume),
                       "skimage rescale": skimage_rule, "ours 99.9": lambda: percentiles(volume, 99.9),
                       "np.percentile": lambda: np.percentile(volume, 99.9)})
    rule, pct = spent["np.histogram rule"], spent["np.percentile"]
    yield Row("stretch, limits alone", "seconds", "lower", spent["limits"], {"np.histogram": spent["np.histogram"]})
    yield Row("stretch, limits alone", "share of peer", "lower", spent["limits"] / spent["np.histogram"], target=0.3)
    yield Row("stretch, whole", "seconds", "lower", spent["whole"],
              {"np.histogram rule": rule, "skimage rescale": spent["skimage rescale"]})
    yield Row("stretch, whole", "share of peer", "lower", spent["whole"] / rule, target=0.3)
    yield Row("percentile 99.9", "seconds", "lower", spent["ours 99.9"], {"np.percentile": pct})
    yield Row("percentile 99.9", "share of peer", "lower", spent["ours 99.9"] / pct, target=0.15)
