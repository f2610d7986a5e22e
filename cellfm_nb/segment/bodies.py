"""Objects much larger than the PSF (nuclei, whole cells): a foreground, cut apart at its necks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, label, median

from cellfm_nb.errors import InputError
from cellfm_nb.segment.blobs import detect
from cellfm_nb.segment.cuts import merge_by_cuts
from cellfm_nb.segment.distance import depth, mean_radius
from cellfm_nb.segment.filters import along, check_volume
from cellfm_nb.segment.instances import largest_parts
from cellfm_nb.segment.maxima import local_maxima
from cellfm_nb.segment.psf import brightest_box
from cellfm_nb.segment.threshold import otsu_threshold

APART = 4.0                                                 # noise deviations between the two classes, smoothed
GRAIN, REACH = 0.15, 0.2                                    # of the radius: texture is smoothed away, outlines move
NECK_ENERGY = 0.55                                          # of a halved ball's: what is cheaper to cut is two objects
SEED_BOX, SEED_BLUR = 0.3, 0.12                             # of the radius: pieces are smaller than objects
SPOTS_A_BODY, BODY_RADIUS = 6.0, 6.0                        # at most so many; at least so many lateral PSF sigma
RIM = 3.0                                                   # PSF sigma from the outline, where it looks like spots
EVIDENT = 10.0                                              # deviations of a body's mean light
FRAGMENT = 0.05                                             # of the typical volume: less is no object


@dataclass(frozen=True)
class Foreground:
    """Bodies against background: mask (z, y, x) bool; smooth, what it was taken from, without the bodies' texture.

    fine : smoothed as little as the noise allows, for outlines; contrast : difference of the classes' means, in units
    of a voxel's noise; radius_um : of a ball as deep as the bodies are.
    """

    mask: np.ndarray
    smooth: np.ndarray
    fine: np.ndarray
    contrast: float
    radius_um: float


def find_foreground(volume: np.ndarray, spacing_um: Sequence[float]) -> Foreground:
    """Find the foreground by Otsu, smoothed by as much as the noise and the size of the bodies ask for.

    Parameters
    ----------
    volume : (z, y, x), in any linear unit (raw counts).
    spacing_um : (z, y, x) micrometre.

    Returns
    -------
    Foreground, of the square root of the light: bright bodies shall not hide dim ones. A voxel must also rise above
    its surround (Gaussian, one radius wide), which parts bodies that lie close; holes belong to their body. In a ball
    the mean distance to the surface is a quarter of the radius, so the radius is read from the mask, and the smoothing
    from the radius: what is finer than `GRAIN` of it is texture.

    Raises
    ------
    InputError if the volume is constant.
    """
    v, spacing = check_volume(volume, spacing_um)
    if v.min() == v.max():
        raise InputError("nothing to segment", where="volume", got="a constant volume",
                         expected="objects on background", do="check the volume for a blank frame")
    root, noise = stabilised(v)
    sigma, widest = float(spacing.min()), float((v.shape * spacing).min()) / 8
    while True:
        smooth = smoothed(root, sigma / spacing)
        cut = otsu_threshold(smooth)
        gap = float(smooth[smooth > cut].mean() - smooth[smooth <= cut].mean())
        averaged = (4 * np.pi) ** 0.75 * np.sqrt(np.prod(np.maximum(sigma / spacing, 0.5)))
        if gap * averaged > APART * noise or 1.5 * sigma > widest:
            break
        sigma *= 1.5
    fine, mask = smooth, filled(smooth > cut)
    for _ in range(3):
        radius = mean_radius(mask, spacing)
        if GRAIN * radius > sigma:
            sigma = GRAIN * radius
            smooth = smoothed(root, sigma / spacing)
            cut = otsu_threshold(smooth)
        surround = smoothed(smooth, radius / spacing)
        mask = filled((smooth > cut) & (smooth > surround))
    return Foreground(mask, smooth, fine, gap / noise, mean_radius(mask, spacing))


def smoothed(volume: np.ndarray, sigma_px: np.ndarray, truncate: float = 3.0) -> np.ndarray:
    """Return scipy's Gaussian filter of a volume in float32, as one small matrix an axis."""
    for axis, (n, sigma) in enumerate(zip(volume.shape, sigma_px, strict=True)):
        volume = along(volume, gaussian_filter1d(np.eye(n), sigma, 0, truncate=truncate), axis)
    return volume


def filled(mask: np.ndarray) -> np.ndarray:
    """Return the mask with its holes: what is outside touches the border, each axis padded by one."""
    parts, _ = label(np.pad(~mask, 1, constant_values=True))
    return (parts != parts[0, 0, 0])[1:-1, 1:-1, 1:-1]


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
    with its area and its relative brightness, as a dim seam parts bodies too. The outline is where the light falls to
    half of the body's own, holes filled.
    """
    v, spacing = check_volume(volume, spacing_um)
    seen = foreground or find_foreground(v, spacing)
    labels, radius = part_bodies(seen, spacing), seen.radius_um
    for _ in range(2):                                      # now that the size of one body is known
        whole = outlined(seen, labels, spacing, REACH * radius)
        if not whole.any():
            break
        radius = mean_radius(whole, spacing)
        labels = part_bodies(replace(seen, mask=whole > 0, radius_um=radius), spacing)
    return largest_parts(labels)


def outlined(seen: Foreground, labels: np.ndarray, spacing: np.ndarray, reach_um: float) -> np.ndarray:
    """Return the labels with outlines moved by at most `reach_um` to half of the body's light, in fine smoothing."""
    far, nearest = distance_transform_edt(labels == 0, sampling=spacing, return_indices=True)
    grown = np.where(far <= reach_um, labels[tuple(nearest)], 0)
    core = depth(labels > 0, spacing, reach_um) > reach_um
    return np.where(filled(core | half_height(seen.fine**2, labels, grown)), grown, 0)


def larger_than_psf(volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float]) -> bool:
    """Return whether a frame's objects are bodies much larger than the PSF (nuclei, cells), and not puncta.

    Parameters
    ----------
    volume : (z, y, x), in any linear unit (raw counts).
    spacing_um, sigma_um : (z, y, x) micrometre.

    Returns
    -------
    True where the foreground parts into bodies whose radius is over `BODY_RADIUS` lateral PSF sigma, whose mean light
    is evident, and in which `blobs.detect` finds few spots (texture, not objects); spots near the outline are the
    outline's. A cell full of puncta is a body too: who looks for the cell around its puncta must say so. A large
    volume is judged where it is brightest.
    """
    v, spacing = check_volume(volume, spacing_um)
    if v.min() == v.max():
        return False
    psf = np.maximum(sigma_um, 0.9 * spacing)               # nothing is narrower than a voxel
    root, noise = stabilised(v)
    box = brightest_box((root - np.median(root)) / noise)
    seen = find_foreground(v[box], spacing)
    voxels = 4 / 3 * np.pi * seen.radius_um**3 / spacing.prod()
    if seen.radius_um < BODY_RADIUS * psf[-1] or seen.contrast * np.sqrt(voxels) < EVIDENT:
        return False
    labels = segment_bodies(v[box], spacing, seen)
    spots = detect(root[box] / noise, spacing, psf)[["z", "y", "x"]].to_numpy()
    at = np.clip(np.rint(spots).astype(int), 0, np.array(labels.shape) - 1)
    deep = depth(labels > 0, spacing / psf)[tuple(at.T)]
    return bool(labels.max() > 0 and ((deep == 0) | (deep > RIM)).sum() <= SPOTS_A_BODY * labels.max())


def stabilised(volume: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the square root of the light, whose noise hardly depends on it, and that noise (of neighbours along x)."""
    root = np.sqrt(np.maximum(volume - np.quantile(volume, 0.001), 0))
    step = np.abs(np.diff(root, axis=2))
    noise = 1.4826 * float(np.median(step)) or 1.2533 * float(step.mean())             # few grey values: no median
    return root, max(noise / np.sqrt(2), 1e-6)


def half_height(light: np.ndarray, labels: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return where light reaches half of its body's median above the background; `reach` says whose a voxel is."""
    if not labels.any() or labels.all():
        return reach > 0
    floor = float(np.median(light[labels == 0]))
    level = np.append(np.inf, median(light[labels > 0], labels[labels > 0], np.arange(1, labels.max() + 1)))
    return light > floor + 0.5 * (level[reach] - floor)


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

    deep = smoothed(depth(seen.mask, spacing), SEED_BLUR * seen.radius_um / spacing, 4)
    deep = np.where(seen.mask, deep, 0)
    box = tuple(2 * max(1, round(SEED_BOX * seen.radius_um / s)) + 1 for s in spacing)
    seeds = local_maxima(deep, box, 0.0)
    markers = np.zeros(deep.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    return watershed(-deep, markers, mask=seen.mask), len(seeds)


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
