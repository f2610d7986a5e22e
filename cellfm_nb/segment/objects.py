"""The objects table: where each object is, how much light it holds, how large and how certain it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation, median
from scipy.sparse import csr_array
from scipy.sparse.linalg import lsqr
from scipy.stats import norm

from cellfm_nb.errors import InputError
from cellfm_nb.segment.filters import check_volume, local_background
from cellfm_nb.segment.fit import patch_grid, shapes
from cellfm_nb.segment.instances import FeatureGrid, blobs_of

AROUND_PUNCTA = (3.0, 5.0, 5.0)                             # Gaussian of their background, in units of the PSF sigma
PATCH, EDGE = 3.0, 0.2                                      # voxels of outline that move together, and how far
POSITION = ["z", "y", "x"]
COLUMNS = ["frame", "label", "z", "y", "x", "z_um", "y_um", "x_um", "mass", "mass_sd", "light", "light_sd",
           "amplitude", "volume_um3", "score", "p_value", "sd_z_um", "sd_y_um", "sd_x_um", "long_um", "middle_um",
           "short_um"]


def object_table(
    labels: np.ndarray, volume: np.ndarray, spacing_um: Sequence[float], spots: pd.DataFrame,
    sigma_um: Sequence[float], features: FeatureGrid | None = None, frame: int = 0,
) -> pd.DataFrame:
    """Measure every object of a frame.

    Parameters
    ----------
    labels : (z, y, x) integers from `segment_instances`: label k + 1 belongs to row k of `spots`.
    volume : (z, y, x), the light to measure, in any linear unit (raw counts, or the normalised volume); what is smooth
        beyond the objects is taken away here.
    spacing_um, sigma_um : (z, y, x) micrometre.
    spots : table of `blobs.detect`.
    features : descriptors; their mean over each object becomes d0, d1, ...
    frame : number written into the table.

    Returns
    -------
    One row an object, by label: frame, label, z, y, x (voxels), z_um, y_um, x_um, mass and mass_sd (unit of `volume`,
    summed over voxels), amplitude (of `spots`: the fitted peak over the noise), light and light_sd (the same fit's
    amplitude times its volume, um^3: what tells objects apart best, as it knows the frames around), volume_um3, score,
    p_value, sd_z_um, sd_y_um, sd_x_um, the mask's axes long_um, middle_um, short_um (`axes_um`), d0... An object the
    PSF explains has its fitted centre (the intensity-weighted centroid under a Gaussian window, which nearby light
    does not pull) and the mass of the whole fitted blob; a larger one the intensity-weighted centroid and the mass
    within its mask.
    """
    v, spacing = check_volume(volume, spacing_um)
    flat = labels.ravel()
    voxel = np.flatnonzero(flat)
    name, count = np.unique(flat[voxel], return_counts=True)
    if len(name) and name[-1] > len(spots):
        raise InputError("labels and spots do not belong together", where="labels", got=f"label {name[-1]}",
                         expected=f"at most {len(spots)}, one a spot", do="hand over the spots that made the labels")
    row, psf = name.astype(int) - 1, np.asarray(sigma_um, float)
    light, noise = own_light(v, labels > 0, spacing, np.array(AROUND_PUNCTA) * psf)
    mass, mass_sd = blob_mass(light, spots, spacing, psf, noise)
    centroid, sd, inside = centroids(light, labels, name, noise)
    table = pd.DataFrame({"frame": frame, "label": name.astype(np.int64)}, columns=COLUMNS)
    extended = outgrows(count * spacing.prod(), spots.iloc[row], psf)
    fitted = spots[POSITION].to_numpy(float)[row]
    fitted_sd = spots[["sd_z_um", "sd_y_um", "sd_x_um"]].to_numpy(float)[row]
    table[POSITION] = np.where(extended[:, None], centroid, fitted)
    table[["sd_z_um", "sd_y_um", "sd_x_um"]] = np.where(extended[:, None], sd * spacing, fitted_sd)
    table[["z_um", "y_um", "x_um"]] = table[POSITION].to_numpy(float) * spacing
    table["mass"] = np.where(extended, inside, mass[row])
    table["mass_sd"] = np.where(extended, noise * np.sqrt(count), mass_sd[row])
    table["amplitude"], table["volume_um3"] = spots["amplitude"].to_numpy(float)[row], count * spacing.prod()
    table["light"], table["light_sd"] = (column[row] for column in fitted_light(spots, psf))
    table["score"], table["p_value"] = spots["score"].to_numpy()[row], spots["p_value"].to_numpy()[row]
    return with_shapes(table, labels, spacing, features)


def body_table(
    labels: np.ndarray, volume: np.ndarray, spacing_um: Sequence[float], features: FeatureGrid | None = None,
    frame: int = 0,
) -> pd.DataFrame:
    """Measure the bodies of a frame.

    Parameters
    ----------
    labels : (z, y, x) integers from `bodies.segment_bodies`.
    volume : (z, y, x), the light to measure, in any linear unit (raw counts).
    spacing_um, features, frame : as in `object_table`.

    Returns
    -------
    One row a body, by label, with the columns of `object_table`: the intensity-weighted centroid, the light within the
    mask above the light around it, score = that light over its standard deviation were there only background, p_value
    of a Gaussian; amplitude, light and light_sd are nan, as no blob is fitted. The errors hold the noise within the
    body, its texture counted as noise, and one of the outline: every patch of it, `PATCH` voxels wide, may lie `EDGE`
    of a voxel further in or out.
    """
    v, spacing = check_volume(volume, spacing_um)
    name, count = np.unique(labels[labels > 0], return_counts=True)
    table = pd.DataFrame({"frame": frame, "label": name.astype(np.int64)}, columns=COLUMNS)
    size = count * spacing.prod()
    wide = np.full(3, (3 / (4 * np.pi) * np.median(size)) ** (1 / 3) if len(name) else 1.0)
    light, quiet = own_light(v, labels > 0, spacing, wide)
    noise = np.maximum(noise_within(v, labels, name), quiet)
    centroid, sd, mass = centroids(light, labels, name, noise)
    edge_mass, edge_place = outline_errors(light, labels, name, centroid, mass)
    table[POSITION], table["mass"], table["volume_um3"] = centroid, mass, size
    table[["sd_z_um", "sd_y_um", "sd_x_um"]] = np.hypot(sd, edge_place) * spacing
    table[["z_um", "y_um", "x_um"]] = centroid * spacing
    table["mass_sd"] = np.hypot(noise * np.sqrt(count), edge_mass)
    table[["amplitude", "light", "light_sd"]] = np.nan
    table["score"] = mass / (quiet * np.sqrt(count))
    table["p_value"] = np.maximum(norm.sf(table["score"].to_numpy(float)), 1e-300)
    return with_shapes(table, labels, spacing, features)


def noise_within(volume: np.ndarray, labels: np.ndarray, name: np.ndarray) -> np.ndarray:
    """Return (N,) the noise of a voxel in each label, from the differences of neighbours along x."""
    both = (labels[:, :, 1:] > 0) & (labels[:, :, 1:] == labels[:, :, :-1])
    step = np.abs(volume[:, :, 1:] - volume[:, :, :-1])
    middle = median(step, np.where(both, labels[:, :, 1:], 0), name) if len(name) else np.zeros(0)
    return 1.4826 * np.nan_to_num(np.asarray(middle, float)) / np.sqrt(2)


def outline_errors(
    light: np.ndarray, labels: np.ndarray, name: np.ndarray, centroid: np.ndarray, mass: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of light (N,) and centroid (N, 3), voxels, if patches of outline lie `EDGE` voxels off."""
    inner = labels > 0
    for axis in range(3):
        for shift in (1, -1):
            inner &= np.roll(labels, shift, axis) == labels
    voxel = np.argwhere((labels > 0) & ~inner)
    which = np.searchsorted(name, labels[tuple(voxel.T)])
    weight = (EDGE * PATCH * light[tuple(voxel.T)].astype(float)) ** 2                 # PATCH^2 voxels move together
    lever = (voxel - centroid[which]) ** 2
    place = np.stack([np.bincount(which, weight * lever[:, k], len(name)) for k in range(3)], 1)
    return np.sqrt(np.bincount(which, weight, len(name))), np.sqrt(place) / np.maximum(np.abs(mass), 1e-12)[:, None]


def with_shapes(
    table: pd.DataFrame, labels: np.ndarray, spacing: np.ndarray, features: FeatureGrid | None
) -> pd.DataFrame:
    """Return the table with the axes of the masks and, where there are features, their mean over each mask."""
    name = table["label"].to_numpy()
    table[["long_um", "middle_um", "short_um"]] = axes_um(labels, name, spacing)
    if features is not None:
        d = mean_descriptors(labels, name, features)
        table[[f"d{k}" for k in range(d.shape[1])]] = d
    return table


def axes_um(labels: np.ndarray, name: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return (N, 3) the axes (um), longest first, of the ellipsoid with the second moments of each mask.

    A voxel is a box and not a point: its own moment, spacing^2 / 12, counts.
    """
    voxel = np.argwhere(labels > 0)
    which, n = np.searchsorted(name, labels[tuple(voxel.T)]), len(name)
    place, count = voxel * spacing, np.maximum(np.bincount(which, minlength=n), 1)
    centre = np.stack([np.bincount(which, place[:, k], n) for k in range(3)], 1) / count[:, None]
    rest = place - centre[which]
    moment = np.zeros((n, 3, 3))
    for i in range(3):
        for j in range(i + 1):
            moment[:, i, j] = moment[:, j, i] = np.bincount(which, rest[:, i] * rest[:, j], n) / count
    return 2 * np.sqrt(5 * np.linalg.eigvalsh(moment + np.diag(spacing**2 / 12)))[:, ::-1]


def outgrows(volume_um3: np.ndarray, spots: pd.DataFrame, psf: np.ndarray) -> np.ndarray:
    """Return whether each mask is more than its fitted blob's half-peak ellipsoid: then it has its own outline."""
    sigma = np.sqrt(psf**2 + spots["scale"].to_numpy(float)[:, None] ** 2)
    return volume_um3 > 1.5 * 4 / 3 * np.pi * (np.sqrt(2 * np.log(2)) * sigma).prod(1)


def own_light(
    volume: np.ndarray, foreground: np.ndarray, spacing: np.ndarray, wide_um: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the volume without its local background, and the noise of a voxel (spread of the lower half)."""
    around = binary_dilation(foreground, np.ones((3, 3, 3)), iterations=2)
    light = volume - local_background(volume, (~around).astype(np.float32), spacing, np.maximum(wide_um, 2 * spacing))
    quiet = light[~around] if not around.all() else light.ravel()
    middle, low = np.quantile(quiet, [0.5, 0.16])
    return light, max(float(middle - low), 1e-12)


def fitted_light(spots: pd.DataFrame, sigma_um: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return amplitude times volume (um^3, of a Gaussian but for (2 pi)^1.5) of fitted blobs (n,), and its error."""
    width = np.sqrt(np.square(sigma_um) + spots[["scale"]].to_numpy(float) ** 2)           # (n, 3) um
    light = spots["amplitude"].to_numpy(float) * width.prod(1)
    return light, spots["sd_log_mass"].to_numpy(float) * np.abs(light)


def blob_mass(
    light: np.ndarray, spots: pd.DataFrame, spacing: np.ndarray, psf: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the light of every fitted blob and its standard deviation, by least squares over all blobs together.

    With positions and sizes from the fit the amplitudes are linear: neighbours share voxels without counting them
    twice, and the weights are those of optimal extraction (Naylor 1998).
    """
    if not len(spots):
        return np.zeros(0), np.zeros(0)
    blobs = blobs_of(spots)
    sigma = blobs.sigma_px(spacing, psf)
    flat, inside, offset = patch_grid(blobs, light.shape, sigma, 1.5 * psf / spacing)
    g = shapes(offset, inside, sigma)                                                 # N, K
    column = np.broadcast_to(np.arange(len(blobs))[:, None], g.shape)
    used, compact = np.unique(flat, return_inverse=True)
    design = csr_array((g.ravel(), (compact.ravel(), column.ravel())), shape=(len(used), len(blobs)))
    amplitude = lsqr(design, light.ravel()[used].astype(float), atol=1e-8, btol=1e-8)[0]
    integral = (2 * np.pi) ** 1.5 * sigma.prod(1)
    floor = noise / np.sqrt((g**2).sum(1)) * integral                                 # were size and place known
    mass = amplitude * integral
    return mass, np.maximum(spots["sd_log_mass"].to_numpy(float) * np.abs(mass), floor)


def centroids(
    light: np.ndarray, labels: np.ndarray, name: np.ndarray, noise: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the intensity-weighted centroid (N, 3) of each label in voxels, its standard deviation, and its light.

    var(centroid) = noise^2 sum (x - centroid)^2 / light^2. Negative voxels count as they are, so noise averages out;
    an object without net light falls back to the middle of its mask.
    """
    voxel = np.argwhere(labels > 0)
    which = np.searchsorted(name, labels[tuple(voxel.T)])
    weight = light[tuple(voxel.T)].astype(float)
    n = len(name)
    total, size = np.bincount(which, weight, n), np.bincount(which, minlength=n)
    geometric = np.stack([np.bincount(which, voxel[:, k], n) for k in range(3)], 1) / np.maximum(size, 1)[:, None]
    moment = np.stack([np.bincount(which, weight * voxel[:, k], n) for k in range(3)], 1)
    bright = total > 3 * noise * np.sqrt(np.maximum(size, 1))
    centre = np.where(bright[:, None], moment / np.where(bright, total, 1)[:, None], geometric)
    spread = np.stack([np.bincount(which, (voxel[:, k] - centre[which, k]) ** 2, n) for k in range(3)], 1)
    sd = np.sqrt(spread) * (noise / np.where(bright, total, np.inf))[:, None]
    return centre, np.where(bright[:, None], sd, np.sqrt(spread / np.maximum(size, 1)[:, None])), total


def mean_descriptors(labels: np.ndarray, name: np.ndarray, features: FeatureGrid) -> np.ndarray:
    """Return (N, d) mean over each label of the descriptors, trilinear between token centres."""
    voxel = np.argwhere(labels > 0)
    which = np.searchsorted(name, labels[tuple(voxel.T)])
    d = features.at(voxel)
    count = np.maximum(np.bincount(which, minlength=len(name)), 1)
    return np.stack([np.bincount(which, d[:, k], len(name)) / count for k in range(d.shape[1])], axis=1)
