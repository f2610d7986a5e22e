"""Principal components of features that never fit in memory at once: one pass, float64, stable signs.

Means and covariances of batches are merged by the pairwise update of Chan, Golub & LeVeque (1979), the many-variable
form of Welford's; the result does not depend on how the rows were cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellfm_nb.errors import InputError


class Moments:
    """Gather count, mean (D,) and scatter (D, D) of rows, batch by batch, in float64."""

    def __init__(self, columns: int) -> None:
        self.count, self.mean = 0, np.zeros(columns)
        self.scatter = np.zeros((columns, columns))  # sum over rows of (x - mean)(x - mean)^T

    def update(self, rows: np.ndarray) -> Moments:
        """Count a batch of rows (n, D)."""
        rows = np.asarray(rows, np.float64)
        if len(rows):
            batch = Moments(rows.shape[1])
            batch.count, batch.mean = len(rows), rows.mean(0)
            centred = rows - batch.mean
            batch.scatter = centred.T @ centred
            self.merge(batch)
        return self

    def merge(self, other: Moments) -> Moments:
        """Count all rows of another gatherer (of another worker, say)."""
        total = self.count + other.count
        if total:
            shift = other.mean - self.mean
            self.scatter += other.scatter + np.outer(shift, shift) * (self.count * other.count / total)
            self.mean = self.mean + shift * (other.count / total)
            self.count = total
        return self

    @property
    def covariance(self) -> np.ndarray:
        """The (D, D) sample covariance (divided by count - 1)."""
        return self.scatter / max(self.count - 1, 1)


@dataclass(frozen=True)
class Pca:
    """Hold a fitted PCA.

    mean (D,) float64; components (k, D) float64, orthonormal rows, the largest entry of each positive; variance (k,)
    along each; explained (k,), the share of the total variance.
    """

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray
    explained: np.ndarray

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Project features (..., D) to (..., k), float32."""
        return ((np.asarray(features, np.float64) - self.mean) @ self.components.T).astype(np.float32)

    def save(self, path: str | Path) -> None:
        """Write the four arrays as .npz."""
        with open(path, "wb") as file:  # a file object, because numpy appends .npz to other names
            np.savez(file, mean=self.mean, components=self.components, variance=self.variance,
                     explained=self.explained)

    @staticmethod
    def load(path: str | Path) -> Pca:
        """Read what `save` wrote. Raises InputError when it is not such a file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return Pca(**{name: file[name] for name in ("mean", "components", "variance", "explained")})
        except (OSError, ValueError, KeyError) as error:
            raise InputError("this is not a saved PCA", where=path, got=error, expected="an .npz of `Pca.save`",
                             do="run notebook 06 again") from error


def fit_pca(batches: Iterable[np.ndarray], k: int) -> Pca:
    """Fit a PCA in one pass over batches of rows.

    Parameters: batches, an iterable of (n, D) arrays of any sizes; k, number of components (at most D).
    Returns: `Pca`; equal to scikit-learn's full PCA up to sign. Signs are fixed by making the largest entry positive.
    Raises: InputError for fewer than two rows in all, or k outside 1..D.
    """
    moments: Moments | None = None
    for rows in batches:
        moments = (moments or Moments(np.shape(rows)[1])).update(rows)
    if moments is None or moments.count < 2:
        raise InputError("a PCA needs at least two rows of features", got=0 if moments is None else moments.count)
    if not 1 <= k <= len(moments.mean):
        raise InputError("impossible number of components", got=k, expected=f"1..{len(moments.mean)}")
    variance, vectors = np.linalg.eigh(moments.covariance)  # ascending
    variance, components = variance[::-1].clip(0), vectors.T[::-1]
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)  # D, 1
    components = components * np.where(largest < 0, -1.0, 1.0)
    total = variance.sum() or 1.0
    return Pca(moments.mean, components[:k], variance[:k], variance[:k] / total)
