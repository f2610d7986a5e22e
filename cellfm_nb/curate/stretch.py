"""Exact quantiles without sorting, and the histogram stretch they carry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellfm_nb.curate.background import check_volume
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

SHARE = 1 / 5000  # of the voxels saturate at either end: ImageJ's "reset" rule
SAMPLE = 2**16
TILE = 2**19  # voxels looked at while they are in the cache


def percentiles(volume: np.ndarray | Sequence[np.ndarray], q: float | Sequence[float]) -> np.ndarray:
    """Return percentiles of a volume, or of several pooled: np.percentile's numbers, linear between two ranks.

    Parameters: volume, arrays of one number type; q in 0..100, one or several. Found by `order_statistics`.
    Returns: an array like q (a single q is taken as the list [q]: given a bare number and a float32 volume numpy
    works out the rank in single precision, and misses it beyond 2^24 voxels).
    Raises InputError on an empty volume, NaN, or q out of range.
    """
    parts = _parts(volume)
    n, wanted = sum(p.size for p in parts), np.asarray(q, float)
    if not ((wanted >= 0) & (wanted <= 100)).all():
        raise InputError("Percentiles lie between 0 and 100.", got=q, do="Use 99.9, not 0.999 or 999.")
    dtype = parts[0].dtype
    place = (n - 1) * np.true_divide(wanted, dtype.type(100) if dtype.kind == "f" else 100).ravel()
    below = np.floor(place).astype(np.int64)
    ranks = np.unique(np.concatenate([below, np.minimum(below + 1, n - 1)]))
    value = dict(zip(ranks.tolist(), order_statistics(parts, ranks), strict=True))
    found = [np.quantile(np.array([value[k], value[min(k + 1, n - 1)]], dtype), p - k)  # numpy's own way between two
             for k, p in zip(below.tolist(), place, strict=True)]
    return np.array(found).reshape(wanted.shape)


def order_statistics(volume: np.ndarray | Sequence[np.ndarray], ranks: Sequence[int]) -> list[np.generic]:
    """Return the k-th smallest values (k from 0) of a volume, or of several pooled, exactly.

    After Floyd and Rivest 1975: a sorted sample brackets each value; one pass counts what lies below the bracket and
    keeps the few within it, of which the value is then picked. Every answer is proved by the counts; where a bracket
    misses (a sample is chance), it is widened to everything.
    Raises InputError on an empty volume or NaN.
    """
    parts = _parts(volume)
    n = sum(p.size for p in parts)
    step = max(1, n // SAMPLE) | 1  # odd: not in step with the lines
    sample = np.sort(np.concatenate([p[::step] for p in parts]))
    if sample.dtype.kind == "f" and any(np.isnan(p.min()) for p in parts):
        raise InputError("NaN has no rank.", where="percentiles", got="NaN among the voxels",
                         expected="numbers", do="Replace them, or leave this frame out.")
    brackets = []
    for k in ranks:
        share = k / max(n - 1, 1)
        at, slack = share * (len(sample) - 1), 4 + 6 * np.sqrt(len(sample) * share * (1 - share))
        low, high = int(at - slack), int(np.ceil(at + slack))
        # near an end the bracket stays open to it: one comparison less
        brackets.append((sample[low] if low >= 0 and share > 0.05 else None,
                         sample[high] if high < len(sample) and share < 0.95 else None))
    tiles = [p[i : i + TILE] for p in parts for i in range(0, p.size, TILE)]
    unique = list(dict.fromkeys(brackets))
    looked = [[_within(tile, *bracket) for bracket in unique] for tile in tiles]
    answers = []
    for k, bracket in zip(ranks, brackets, strict=True):
        below, kept = zip(*(tile[unique.index(bracket)] for tile in looked), strict=True)
        kept, i = np.concatenate(kept), k - sum(below)
        if not 0 <= i < len(kept):
            kept, i = np.concatenate(parts), k
        answers.append(np.partition(kept, i)[i])
    return answers


def _within(tile: np.ndarray, low: np.generic | None, high: np.generic | None) -> tuple[int, np.ndarray]:
    """Return how many voxels are below a bracket, and those within it, its ends included."""
    if low is None:
        return 0, tile if high is None else tile[tile <= high]
    over = tile >= low
    kept = tile[over] if high is None else tile[over & (tile <= high)]
    return tile.size - (len(kept) if high is None else int(np.count_nonzero(over))), kept


def stretch_limits(volume: np.ndarray | Sequence[np.ndarray], share: float = SHARE) -> tuple[float, float]:
    """Return the values beyond which the darkest and the brightest `share` of the voxels lie.

    Parameters: volume (z,y,x), or several frames of a movie, whose voxels are pooled: one pair for the whole movie.
    Raises InputError on NaN, infinite or constant volumes, and where nothing is left to stretch.
    """
    volumes = [volume] if isinstance(volume, np.ndarray) else list(volume)
    for one in volumes:
        check_volume(one, "stretch_limits", constant_ok=len(volumes) > 1)
    n = sum(v.size for v in volumes)
    k = int(n * share)
    low, high = (float(v) for v in order_statistics(volumes, (k, n - 1 - k)))
    if low == high:
        raise InputError("Nothing to stretch.", where="stretch_limits", expected="an image", do="Check it.",
                         got=f"{100 * (1 - 2 * share):.2f}% of the voxels equal")
    return low, high


def movie_limits(movie: Movie, c: int = 0, n_frames: int = 3, share: float = SHARE) -> tuple[float, float]:
    """Return `stretch_limits` of a channel for the whole movie, from frames spread evenly over it and pooled."""
    times = np.unique(np.linspace(0, movie.n_frames - 1, n_frames).astype(int)).tolist()
    return stretch_limits([movie.frame(t, c) for t in times], share)


def histogram_normalize(volume: np.ndarray, share: float = SHARE, limits: tuple[float, float] | None = None
                        ) -> np.ndarray:
    """Stretch to [0, 1] by the seed's rule, clipped: the darkest and brightest 1/5000 of the voxels saturate.

    Parameters: volume (z,y,x); share of voxels left out at either end (ImageJ's "reset" rule uses 1/5000); limits,
    those of the movie (`movie_limits`) instead of this frame's own.
    Returns: float32 (z,y,x) in [0, 1]. The original left the clipping out and put a min-max behind, and the two
    together are a plain min-max, which one hot voxel rules; here the limits are exact order statistics.
    Raises InputError on NaN, infinite or constant volumes.
    """
    low, high = stretch_limits(volume, share) if limits is None else limits
    check_volume(volume, "histogram_normalize", constant_ok=limits is not None)
    if not low < high:
        raise InputError("These are no limits.", where="histogram_normalize", got=limits, expected="low < high",
                         do="Take them from stretch_limits.")
    out = np.empty(volume.shape, np.float32)
    for plane, stretched in zip(volume, out, strict=True):  # plane by plane: it stays in the cache
        np.subtract(plane, np.float32(low), out=stretched, dtype=np.float32)
        stretched /= np.float32(high - low)
        np.clip(stretched, 0, 1, out=stretched)
    return out


def _parts(volume: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return volumes as flat arrays of one type."""
    parts = [np.ravel(v) for v in ([volume] if isinstance(volume, np.ndarray) else volume)]
    parts = [p.view(np.uint8) if p.dtype == bool else p for p in parts]
    if not sum(p.size for p in parts) or len({p.dtype for p in parts}) > 1:
        raise InputError("No voxels to rank.", where="percentiles", got=f"{len(parts)} volumes, "
                         f"types {sorted({str(p.dtype) for p in parts})}", expected="one number type, not empty",
                         do="Check the volume.")
    return parts
