"""Objects much larger than the PSF (nuclei, whole cells): a foreground, cut apart at its necks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from cellfm_nb.errors import InputError
from cellfm_nb.segment.cuts import merge_by_cuts
from cellfm_nb.segment.filters import check_volume
from cellfm_nb.segment.maxima import local_maxima
from cellfm_nb.segment.threshold import otsu_threshold

APART = 8.0                                                 # noise deviations between the two classes
NECK_ENERGY = 0.55                                          # of a halved ball's: what is cheaper to cut is two objects
SEED_BOX, SEED_BLUR = 0.3, 0.12                             # of the radius: pieces are smaller than objects
SPOTS_A_BODY, BODY_RADIUS = 2.0, 8.0                        # at most so many; at least so many lateral PSF sigma
FRAGMENT = 0.05                                             # of the typical volume: less is no object


@dataclass(frozen=True)
class Foreground:
    """Bodies against background: mask (z, y, x) bool; smooth, the volume it was taken from; contrast, difference of
    the classes' means, in units of a voxel's noise; radius_um, of a ball as deep as the bodies are.
    """

    mask: np.ndarray
    smooth: np.ndarray
    contrast: float
    radius_um: float


def find_foreground(volume: np.ndarray, spacing_um: Sequence[float]) -> Foreground:
    """Find the foreground by Otsu, smoothed as little as lets the two classes stand apart.

    Parameters
    ----------
    volume : (z, y, x), in any linear unit (raw counts).
    spacing_um : (z, y, x) micrometre.

    Returns
    -------
    Foreground, of the square root of the light: bright bodies shall not hide dim ones. A voxel must also rise above
    its surround (Gaussian, one radius wide), which parts bodies that lie close. In a ball the mean distance to the
    surface is a quarter of the radius, so the radius is read from the mask.

    Raises
    ------
    InputError if the volume is constant.
    """
    v, spacing = check_volume(volume, spacing_um)
    if v.min() == v.max():
        raise InputError("nothing to segment", where="volume", got="a constant volume",
                         expected="objects on background", do="check the volume for a blank frame")
    root = np.sqrt(np.maximum(v - np.quantile(v, 0.001), 0))
    noise = 1.4826 * float(np.median(np.abs(np.diff(root, axis=2)))) / np.sqrt(2)
    sigma, widest = float(spacing.min()), float((v.shape * spacing).min()) / 8
    while True:
        smooth = gaussian_filter(root, sigma / spacing, truncate=3)
        cut = otsu_threshold(smooth)
        gap = float(smooth[smooth > cut].mean() - smooth[smooth <= cut].mean())
        averaged = (4 * np.pi) ** 0.75 * np.sqrt(np.prod(np.maximum(sigma / spacing, 0.5)))
        if gap * averaged > APART * noise or 1.5 * sigma > widest:
            break
        sigma *= 1.5
    mask = smooth > cut
    for _ in range(3):
        radius = mean_radius(mask, spacing)
        mask = (smooth > cut) & (smooth > gaussian_filter(smooth, radius / spacing, truncate=3))
    return Foreground(mask, smooth, gap / max(noise, 1e-6), mean_radius(mask, spacing))


def mean_radius(mask: np.ndarray, spacing: np.ndarray) -> float:
    """Return four times the mean distance (um) of the mask's voxels to its surface."""
    return 4 * float(distance_transform_edt(mask, sampling=spacing)[mask].mean()) if mask.any() else 0.0


def segment_bodies(
    volume: np.ndarray, spacing_um: Sequence[float], foreground: Foreground | None = None
) -> np.ndarray:
    """Return one label a body; touching ones are parted where the cut is cheap.

    Parameters
    ----------
    volume : (z, y, x), in any linear unit (raw counts).
    spacing_um : (z, y, x) micrometre.
    foreground : of `find_foreground`; None = found here.

    Returns
    -------
    (z, y, x) uint32 labels, 0 = background.

    Method: the foreground is divided into basins of its distance map, more than there are bodies; basins merge as
    long as the cut between them would cost as much as cutting through a ball (`cuts.merge_by_cuts`). A contact counts
    with its area and its relative brightness, as a dim seam parts bodies too.
    """
    v, spacing = check_volume(volume, spacing_um)
    seen = foreground or find_foreground(v, spacing)
    labels = part_bodies(seen, spacing)
    within = half_height(seen.smooth**2, labels)            # the light again: the root reaches further out
    if not within.any():
        return labels
    return part_bodies(replace(seen, mask=within, radius_um=mean_radius(within, spacing)), spacing)


def larger_than_psf(labels: np.ndarray, radius_um: float, n_spots: int, sigma_um: Sequence[float]) -> bool:
    """Return whether a frame's objects are its bodies, and not the spots that `blobs.detect` finds in it.

    Parameters: labels of `segment_bodies`; radius_um of `find_foreground`; n_spots found in the same volume; sigma_um
    (z, y, x). A cell full of puncta is a body too: what counts is that spots are few for each body (texture, not
    objects) and that bodies are much larger than the PSF. Who looks for the cell around its puncta must say so.
    """
    n = len(np.unique(labels[labels > 0]))
    return n > 0 and n_spots <= SPOTS_A_BODY * n and radius_um >= BODY_RADIUS * sigma_um[-1]


def half_height(light: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the voxels of the labels that reach half of their body's median light above the background."""
    from scipy.ndimage import median

    if not labels.any() or labels.all():
        return labels > 0
    floor = float(np.median(light[labels == 0]))
    level = np.append(np.inf, median(light, labels, np.arange(1, labels.max() + 1)))
    return light > floor + 0.5 * (level[labels] - floor)


def part_bodies(seen: Foreground, spacing: np.ndarray) -> np.ndarray:
    """Return the foreground's bodies, uint32: its basins, merged until only necks are left."""
    if not seen.mask.any():
        return np.zeros(seen.mask.shape, np.uint32)
    basin, n = pieces(seen, spacing)
    count = np.bincount(basin.ravel(), minlength=n + 1)[1:]
    volume_um3 = count * spacing.prod()
    light = np.maximum(seen.smooth - np.median(seen.smooth[~seen.mask]), 0) if not seen.mask.all() else seen.smooth
    mean = np.bincount(basin.ravel(), light.ravel(), minlength=n + 1)[1:] / count
    i, j, area, seam = contacts(basin, light, spacing)
    bright = np.clip(seam / np.maximum(np.minimum(mean[i], mean[j]), 1e-9), 0, 1)
    owner = merge_by_cuts(i, j, area * bright, volume_um3, NECK_ENERGY)
    size = np.bincount(owner, volume_um3, minlength=n)
    whole = np.flatnonzero(size > FRAGMENT * weighted_median(size[size > 0]))
    name = np.zeros(n, np.uint32)
    name[whole] = np.arange(1, len(whole) + 1)
    return np.append(np.uint32(0), name[owner])[basin]


def pieces(seen: Foreground, spacing: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the watershed of the foreground's smoothed distance map, int32 from 1, and how many basins it has."""
    from skimage.segmentation import watershed

    depth = distance_transform_edt(seen.mask, sampling=spacing)
    depth = np.where(seen.mask, gaussian_filter(depth, SEED_BLUR * seen.radius_um / spacing), 0)
    box = tuple(2 * max(1, round(SEED_BOX * seen.radius_um / s)) + 1 for s in spacing)
    seeds = local_maxima(depth, box, 0.0)
    markers = np.zeros(depth.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    return watershed(-depth, markers, mask=seen.mask), len(seeds)


def contacts(
    region: np.ndarray, light: np.ndarray, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (i, j, area, seam) of touching regions, counted from 0: contact in um^2, mean light of its two sides.

    The area is the length of the summed face vectors: exact for a flat contact in any direction, where counting
    voxel faces would give up to 1.7 times as much.
    """
    low, high, vector, seam = [], [], [], []
    for axis in range(3):
        a, b = (np.moveaxis(region, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        u, w = (np.moveaxis(light, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        touch = (a != b) & (a > 0) & (b > 0)
        a, b = a[touch].astype(np.int64), b[touch].astype(np.int64)
        low.append(np.minimum(a, b))
        high.append(np.maximum(a, b))
        vector.append(np.sign(b - a)[:, None] * np.eye(3)[axis] * spacing.prod() / spacing[axis])
        seam.append((u[touch] + w[touch]) / 2)
    pair, which = np.unique(np.stack([np.concatenate(low), np.concatenate(high)]), axis=1, return_inverse=True)
    which, n = which.ravel(), pair.shape[1]
    faces = np.stack([np.bincount(which, part, n) for part in np.concatenate(vector).T], 1)
    return (pair[0] - 1, pair[1] - 1, np.linalg.norm(faces, axis=1),
            np.bincount(which, np.concatenate(seam), n) / np.maximum(np.bincount(which, minlength=n), 1))


def weighted_median(size: np.ndarray) -> float:
    """Return the size of the object in which the middle voxel lies: fragments do not pull it down."""
    ordered = np.sort(size)
    return float(ordered[np.searchsorted(np.cumsum(ordered), ordered.sum() / 2)])
