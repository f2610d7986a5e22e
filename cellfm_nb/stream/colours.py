"""Features as colours: black is a token like most, light is one unlike them, and the hue says in which way.

The three components along which all tokens vary most are, in a movie of small objects, the level of the background and
noise: objects are rare, and add little to the variance of all. So, as is usual for pictures of self-supervised
features (Oquab et al. 2023, DINOv2), ordinary tokens are told first and darkened, and the components are those of the
rest. What is ordinary is the median token; no label is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellfm_nb.errors import InputError
from cellfm_nb.stream.pca import Pca, fit_pca

FAR = 0.05  # the share of the tokens, those farthest from the median token, that the hues are fitted on
DARK, BRIGHT = 75, 99.5  # percentiles of the squared distance that are painted black and at full light


@dataclass(frozen=True)
class Colours:
    """Hold what turns features into colours.

    median (D,) float64, the ordinary token; dark, bright: squared distances from it that are painted black and at full
    light; hues: `Pca` of three components; low, high (3,): scores that become 0 and 1.
    """

    median: np.ndarray
    dark: float
    bright: float
    hues: Pca
    low: np.ndarray
    high: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Paint features (..., D) of any frame on the one scale: (..., 3) float32 in 0..1."""
        light = (distance(features, self.median) - self.dark) / max(self.bright - self.dark, 1e-12)
        hue = ((self.hues.transform(features) - self.low) / np.maximum(self.high - self.low, 1e-12)).clip(0, 1)
        hue = hue / np.maximum(hue.max(-1, keepdims=True), 1e-6)  # the largest of red, green and blue is 1
        return (hue * light.clip(0, 1)[..., None]).astype(np.float32)


def fit_colours(features: np.ndarray) -> Colours:
    """Learn from features (..., D), of one frame or some, which tokens are ordinary and how the others differ.

    Paint all frames that are compared with the colours of one fit, so that a colour means the same throughout.
    Raises: InputError for fewer than four tokens or three numbers a token.
    """
    rows = np.asarray(features, np.float64).reshape(-1, np.shape(features)[-1])
    if len(rows) < 4 or rows.shape[1] < 3:
        raise InputError("too few features to give colours to", got=rows.shape, expected="(at least 4, at least 3)")
    median = np.median(rows, axis=0)
    away = distance(rows, median)
    far = rows[np.argsort(-away, kind="stable")[: max(4, round(FAR * len(rows)))]]
    hues = fit_pca([far], 3)
    low, high = np.percentile(hues.transform(far), (1, 99), axis=0)
    return Colours(median, *map(float, np.percentile(away, (DARK, BRIGHT))), hues, low, high)


def distance(features: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Return the squared distance (...) of features (..., D) from the ordinary token."""
    return ((np.asarray(features, np.float64) - median) ** 2).sum(-1)
