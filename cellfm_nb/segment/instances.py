"""From spots to instances: who owns a voxel, and how far an object reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, label, map_coordinates
from scipy.spatial import cKDTree

from cellfm_nb.errors import InputError
from cellfm_nb.segment.evidence import OWN_SIZE
from cellfm_nb.segment.filters import check_volume, local_background
from cellfm_nb.segment.fit import Blobs, chunks, patch_grid, shapes

HAZE = np.array([4.0, 6.0, 6.0])                            # what is smoother than this (PSF sigma) is no object
NECK = 0.3                                                  # of a ball's cross-section: narrower, and two objects touch
LARGER = 1.6                                                # than its blobs: then an object has an outline of its own
ALONE, CROWDED = 0.8, 0.3                                   # weight of space against features
NEIGHBOURS = 8                                              # seeds that may compete for a voxel


@dataclass(frozen=True)
class FeatureGrid:
    """Descriptors on the token grid: values (gz, gy, gx, d), patch (z, y, x) voxels a token covers."""

    values: np.ndarray
    patch: tuple[int, int, int]

    def at(self, voxels: np.ndarray) -> np.ndarray:
        """Return (N, d) descriptors at voxel positions (N, 3), trilinear between token centres."""
        grid = (np.asarray(voxels, float).T + 0.5) / np.array(self.patch, float)[:, None] - 0.5
        return np.stack([map_coordinates(self.values[..., k].astype(np.float32), grid, order=1, mode="nearest")
                         for k in range(self.values.shape[-1])], axis=1)


def voronoi(
    mask: np.ndarray, seeds: np.ndarray, spacing_um: Sequence[float], features: FeatureGrid | None = None,
    alpha: float | np.ndarray = 1.0,
) -> np.ndarray:
    """Give each voxel of the mask to the nearest seed in the joint metric alpha d_spatial + (1 - alpha) d_feature.

    Parameters
    ----------
    mask : (z, y, x) bool.
    seeds : (N, 3) voxel positions; label k + 1 belongs to seed k.
    spacing_um : (z, y, x) micrometre; distances are physical.
    features : descriptors to compare a voxel with the seeds by; None or alpha = 1 is the plain Voronoi partition.
    alpha : weight of space, 0..1; one for all, or one a seed (`alpha_by_density`): a voxel takes that of its nearest.

    Returns
    -------
    (z, y, x) uint32, exactly the mask where there is a seed. Both distances are divided by their mean over the
    competing pairs, so that alpha weighs like with like; a voxel's owner is one of its 8 nearest seeds in space.
    """
    alpha = np.asarray(alpha, float)
    if not ((alpha >= 0) & (alpha <= 1)).all():
        raise InputError("alpha must lie between 0 and 1", where="alpha", got=alpha, expected="0 <= alpha <= 1",
                         do="1 is space alone, 0 features alone")
    labels = np.zeros(mask.shape, np.uint32)
    seeds = np.asarray(seeds, float).reshape(-1, 3)
    voxels = np.argwhere(mask)
    if not len(seeds) or not len(voxels):
        return labels
    spacing = np.asarray(spacing_um, float)
    joint = features is not None and (alpha < 1).any()
    near = np.arange(1, min(NEIGHBOURS if joint else 1, len(seeds)) + 1)
    distance, owner = cKDTree(seeds * spacing).query(voxels * spacing, k=near)      # V, k
    if joint:
        of_seed, of_voxel = features.at(seeds), features.at(voxels)
        unlike = np.linalg.norm(of_voxel[:, None] - of_seed[owner], axis=2)           # V, k
        if alpha.ndim:
            alpha = alpha[owner[:, :1]]
        cost = alpha * distance / max(distance.mean(), 1e-12) + (1 - alpha) * unlike / max(unlike.mean(), 1e-12)
        owner = np.take_along_axis(owner, cost.argmin(1)[:, None], axis=1)
    labels[tuple(voxels.T)] = owner[:, 0] + 1
    return labels


def alpha_by_density(seeds_um: np.ndarray, reach_um: float) -> np.ndarray:
    """Return each seed's weight of space: .8 where it stands alone, .3 where others crowd it.

    Parameters: seeds_um (N, 3) micrometre; reach_um, the distance at which two objects begin to touch. Returns: (N,),
    falling linearly with the nearest neighbour's distance from two reaches down to one. The two weights are those of
    claim A33; where objects overlap, distance alone says little about whose a voxel is.
    """
    seeds = np.asarray(seeds_um, float).reshape(-1, 3)
    if len(seeds) < 2:
        return np.full(len(seeds), ALONE)
    nearest = cKDTree(seeds).query(seeds, k=2)[0][:, 1]
    return CROWDED + (ALONE - CROWDED) * np.clip(nearest / reach_um - 1, 0, 1)


def blobs_of(spots: pd.DataFrame) -> Blobs:
    """Return the fitted blobs of a table of spots."""
    n = len(spots)
    return Blobs(spots[["z", "y", "x"]].to_numpy(float), spots["amplitude"].to_numpy(float),
                 spots["scale"].to_numpy(float) ** 2, np.full((n, 3), np.nan), np.full(n, np.nan), np.full(n, np.nan))


def blob_labels(shape: Sequence[int], blobs: Blobs, spacing: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return labels k + 1 where blob k stands above half its own peak; where two do, the brighter one owns it."""
    labels, best = np.zeros(int(np.prod(shape)), np.uint32), np.zeros(int(np.prod(shape)))
    sigma = blobs.sigma_px(spacing, psf)
    for part in chunks(len(blobs)):
        chosen = blobs.take(part)
        flat, inside, offset = patch_grid(chosen, tuple(shape), sigma[part], 1.5 * psf / spacing)
        g = shapes(offset, inside, sigma[part])
        row, column = np.nonzero(g >= 0.5)
        voxel, value = flat[row, column], g[row, column] * chosen.amplitude[row]
        order = np.argsort(value, kind="stable")                                  # the brightest is written last
        voxel, value, owner = voxel[order], value[order], part[row[order]] + 1
        wins = value > best[voxel]
        labels[voxel[wins]], best[voxel[wins]] = owner[wins], value[wins]
    return labels.reshape(shape)


def half_peak_volume(blobs: Blobs, blur_um: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return the volume (um^3) in which each blob, blurred once more, exceeds half its peak.

    An object's own size counts up to the largest that is still looked for as a blob.
    """
    own = np.minimum(blobs.extra, (OWN_SIZE[-1] * psf[-1]) ** 2)
    sigma = np.sqrt(psf**2 + own[:, None] + blur_um**2)
    return 4 / 3 * np.pi * (np.sqrt(2 * np.log(2)) * sigma).prod(1)


def noise_level(smooth: np.ndarray, k: float = 4.0) -> float:
    """Return the level k noise deviations above the middle; the deviation is that of the lower half, without objects.

    At k = 4 one voxel of noise in 30,000 stands above it.
    """
    middle, low = np.quantile(smooth[::2, ::2, ::2], [0.5, 0.16])
    return float(middle + k * (middle - low))


def basins(smooth: np.ndarray, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Return the watershed of the smoothed volume, grown from the seeds within the mask."""
    from skimage.segmentation import watershed

    markers = np.zeros(smooth.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    return watershed(-smooth, markers, mask=mask | (markers > 0))


def ridges(
    smooth: np.ndarray, basin: np.ndarray, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (i, j, saddle, neck) of touching basins: the highest pass between them, and their contact in um^2."""
    low, high, level, area = [], [], [], []
    for axis in range(3):
        a, b = (np.moveaxis(basin, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        u, v = (np.moveaxis(smooth, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        touch = (a != b) & (a > 0) & (b > 0)
        low.append(np.minimum(a[touch], b[touch]))
        high.append(np.maximum(a[touch], b[touch]))
        level.append(np.minimum(u[touch], v[touch]))
        area.append(np.full(touch.sum(), spacing.prod() / spacing[axis]))
    i, j, s, face = (np.concatenate(part) for part in (low, high, level, area))
    pair, which = np.unique(np.stack([i, j]).reshape(2, -1), axis=1, return_inverse=True)
    saddle = np.full(pair.shape[1], -np.inf)
    np.maximum.at(saddle, which.ravel(), s)
    return pair[0], pair[1], saddle, np.bincount(which.ravel(), face, pair.shape[1])


def extended_labels(volume: np.ndarray, blobs: Blobs, spacing: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return labels of the objects that blobs do not describe, 0 elsewhere; the label is that of the best seed.

    A seed's region is what stands above half of its basin's peak and above the noise. Seeds are one group where the
    pass between them is above half of the lower peak and no narrow neck parts them (`NECK` of the cross-section a ball
    of the smaller region's volume has). A group is one extended object (a tube, a sheet, a body) if its region is over
    `LARGER` times as large as its blobs are. Touching puncta also join above half, but fill no more than their blobs.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    blur = 0.5 * psf
    haze = local_background(volume, np.ones_like(volume), spacing, np.maximum(HAZE * psf, 2 * spacing), passes=3)
    smooth = gaussian_filter(volume - haze, blur / spacing, mode="nearest")
    mask = smooth > noise_level(smooth)
    seeds = np.clip(np.rint(blobs.position).astype(int), 0, np.array(volume.shape) - 1)
    n = len(seeds)
    basin = basins(smooth, mask, seeds)
    peak = np.zeros(n + 1, np.float32)
    np.maximum.at(peak, basin.ravel(), smooth.ravel())
    peak[0] = np.inf
    region = np.where((smooth >= 0.5 * peak[basin]) & mask, basin, 0)
    size = np.bincount(region.ravel(), minlength=n + 1)[1:] * spacing.prod()          # um^3, each seed
    i, j, saddle, neck = ridges(smooth, region, spacing)
    waist = np.pi * (3 / (4 * np.pi) * np.minimum(size[i - 1], size[j - 1])) ** (2 / 3)
    joined = (saddle >= 0.5 * np.minimum(peak[i], peak[j])) & (neck > NECK * waist)
    graph = coo_array((np.ones(joined.sum()), (i[joined] - 1, j[joined] - 1)), shape=(n, n))
    group = connected_components(graph, directed=False)[1]
    region_size, blob_size = np.bincount(group, size), np.bincount(group, half_peak_volume(blobs, blur, psf))
    extended = region_size > LARGER * blob_size
    best = np.full(extended.shape, n)
    np.minimum.at(best, group, np.arange(n))                                          # spots come best first
    name = np.append(0, np.where(extended[group], best[group] + 1, 0)).astype(np.uint32)
    return largest_parts(name[region])


def largest_parts(labels: np.ndarray) -> np.ndarray:
    """Return labels with only the largest connected part of each kept."""
    parts, _ = label(labels > 0, np.ones((3, 3, 3)))
    voxel = np.flatnonzero(labels)
    name, part = labels.ravel()[voxel].astype(np.int64), parts.ravel()[voxel]
    pair, which, count = np.unique(name << 32 | part, return_inverse=True, return_counts=True)
    order = np.lexsort((-count, pair >> 32))                                          # largest first in each name
    first = np.ones(len(order), bool)
    first[1:] = (pair[order][1:] >> 32) != (pair[order][:-1] >> 32)
    keep = np.zeros(len(pair), bool)
    keep[order[first]] = True
    out = np.zeros(labels.size, np.uint32)
    out[voxel[keep[which]]] = name[keep[which]]
    return out.reshape(labels.shape)


def segment_instances(
    volume: np.ndarray, spots: pd.DataFrame, spacing_um: Sequence[float], sigma_um: Sequence[float],
    features: FeatureGrid | None = None, alpha: float | None = None,
) -> np.ndarray:
    """Return one label an object: spots the PSF explains keep the fitted shape, larger objects their own outline.

    Parameters
    ----------
    volume : (z, y, x) float32, normalised.
    spots : table of `blobs.detect`, best first; label k + 1 is row k (of several seeds on one object, the best).
    spacing_um, sigma_um : (z, y, x) micrometre.
    features : descriptors; where objects touch, the partition is then taken in the joint metric of `voronoi`.
    alpha : weight of space in that metric, 1 for space alone; None = by local density (`alpha_by_density`).

    Returns
    -------
    (z, y, x) uint32 labels, 0 = background.
    """
    v, spacing = check_volume(volume, spacing_um)
    if not len(spots):
        return np.zeros(v.shape, np.uint32)
    psf, blobs = np.asarray(sigma_um, float), blobs_of(spots)
    large = extended_labels(v, blobs, spacing, psf)
    labels = blob_labels(v.shape, blobs, spacing, psf)
    owner = np.zeros(len(blobs) + 1, np.uint32)                                       # seed -> its object
    owner[1:] = np.arange(1, len(blobs) + 1)
    seeds = np.clip(np.rint(blobs.position).astype(int), 0, np.array(v.shape) - 1)
    on_large = large[tuple(seeds.T)]
    owner[1:][on_large > 0] = on_large[on_large > 0]
    labels = np.where(large > 0, large, owner[labels])
    if features is None or alpha == 1:
        return labels
    if alpha is None:
        alpha = alpha_by_density(blobs.position * spacing, 2.355 * float(psf[-1]))
    joint = owner[voronoi(labels > 0, blobs.position, spacing, features, alpha)]
    parts, _ = label(labels > 0, np.ones((3, 3, 3)))
    home = parts[tuple(seeds.T)]
    same = np.append(0, home)[joint] == parts                                         # never across a gap
    return np.where(same, joint, labels).astype(np.uint32)
