"""The objects table: where each object is, how much light it holds, how large and how certain it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.linalg import lsqr

from cellfm_nb.errors import InputError
from cellfm_nb.segment.filters import check_volume, local_background
from cellfm_nb.segment.fit import patch_grid, shapes
from cellfm_nb.segment.instances import FeatureGrid, blobs_of, segment_instances
from cellfm_nb.segment.movie import detect_movie

POSITION = ["z", "y", "x"]
COLUMNS = ["frame", "label", "z", "y", "x", "z_um", "y_um", "x_um", "mass", "mass_sd", "volume_um3", "score", "p_value",
           "sd_z_um", "sd_y_um", "sd_x_um"]


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
    summed over voxels), volume_um3, score, p_value, sd_z_um, sd_y_um, sd_x_um, d0... An object the PSF explains has
    its fitted centre (the intensity-weighted centroid under a Gaussian window, which nearby light does not pull) and
    the light of the whole fitted blob; a larger one the intensity-weighted centroid and the light within its mask.
    """
    v, spacing = check_volume(volume, spacing_um)
    flat = labels.ravel()
    voxel = np.flatnonzero(flat)
    name, count = np.unique(flat[voxel], return_counts=True)
    if len(name) and name[-1] > len(spots):
        raise InputError("labels and spots do not belong together", where="labels", got=f"label {name[-1]}",
                         expected=f"at most {len(spots)}, one a spot", do="hand over the spots that made the labels")
    row, psf = name.astype(int) - 1, np.asarray(sigma_um, float)
    light, noise = own_light(v, labels > 0, spacing, psf)
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
    table["volume_um3"] = count * spacing.prod()
    table["score"], table["p_value"] = spots["score"].to_numpy()[row], spots["p_value"].to_numpy()[row]
    if features is not None:
        d = mean_descriptors(labels, name, features)
        table[[f"d{k}" for k in range(d.shape[1])]] = d
    return table


def outgrows(volume_um3: np.ndarray, spots: pd.DataFrame, psf: np.ndarray) -> np.ndarray:
    """Return whether each mask is more than its fitted blob's half-peak ellipsoid: then it has its own outline."""
    sigma = np.sqrt(psf**2 + spots["scale"].to_numpy(float)[:, None] ** 2)
    return volume_um3 > 1.5 * 4 / 3 * np.pi * (np.sqrt(2 * np.log(2)) * sigma).prod(1)


def own_light(
    volume: np.ndarray, foreground: np.ndarray, spacing: np.ndarray, psf: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the volume without its local background, and the noise of a voxel (spread of the lower half)."""
    from scipy.ndimage import binary_dilation

    around = binary_dilation(foreground, np.ones((3, 3, 3)), iterations=2)
    wide = np.maximum(np.array([3.0, 5.0, 5.0]) * psf, 2 * spacing)
    light = volume - local_background(volume, (~around).astype(np.float32), spacing, wide)
    quiet = light[~around] if not around.all() else light.ravel()
    middle, low = np.quantile(quiet, [0.5, 0.16])
    return light, max(float(middle - low), 1e-12)


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
    return amplitude * integral, np.maximum(spots["sd_log_mass"].to_numpy(float) * np.abs(amplitude) * integral, floor)


def centroids(
    light: np.ndarray, labels: np.ndarray, name: np.ndarray, noise: float
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
    sd = noise * np.sqrt(spread) / np.where(bright, total, np.inf)[:, None]
    return centre, np.where(bright[:, None], sd, np.sqrt(spread / np.maximum(size, 1)[:, None])), total


def mean_descriptors(labels: np.ndarray, name: np.ndarray, features: FeatureGrid) -> np.ndarray:
    """Return (N, d) mean over each label of the descriptors, trilinear between token centres."""
    voxel = np.argwhere(labels > 0)
    which = np.searchsorted(name, labels[tuple(voxel.T)])
    d = features.at(voxel)
    count = np.maximum(np.bincount(which, minlength=len(name)), 1)
    return np.stack([np.bincount(which, d[:, k], len(name)) / count for k in range(d.shape[1])], axis=1)


def read_feature_grid(
    features_path: Path, pca_path: Path, frame: int, spacing_um: Sequence[float], k: int = 10
) -> FeatureGrid:
    """Return the first k principal components of a frame's streamed features, on the movie's own grid.

    Reads the Zarr group (t, c, gz, gy, gx) and the PCA (.npz: mean, components) of notebook 06. The features may have
    been computed at another spacing than the movie's: a token then covers a fraction of voxels.
    """
    import zarr

    group = zarr.open_group(features_path, mode="r")
    about = dict(group.attrs["cellfm_nb"])
    grid = np.moveaxis(group["0"][frame], 0, -1)[..., : about["width"]].astype(np.float32)      # gz, gy, gx, D
    with np.load(pca_path, allow_pickle=False) as pca:
        mean, components = pca["mean"], pca["components"][:k]
    token_um = np.array(about["patch"]) * np.array(about["spacing_um"])
    return FeatureGrid((grid - mean) @ components.T, tuple(token_um / np.asarray(spacing_um)))


def write_objects(
    objects_path: Path, labels_path: Path, movie_path: Path, prepare: Callable, sigma_um: Sequence[float],
    fdr: float = 0.05, features_path: Path | None = None, pca_path: Path | None = None, alpha: float = 1.0,
    channel: int = 0, **options: Any,
) -> None:
    """Segment a movie frame by frame and write its objects table and its labels (a writer for `Workspace.make`).

    Parameters
    ----------
    objects_path, labels_path : where to write: a Parquet table, and the OME-Zarr labels <movie>/labels/<name>.
    movie_path : OME-Zarr movie.
    prepare : function (movie, t, c=..., **options) -> (normalised volume, spacing_um), at the movie's own spacing.
    sigma_um : PSF (z, y, x) in micrometre; one for the whole movie.
    fdr : accepted share of false objects.
    features_path, pca_path : features of notebook 06; None leaves d0... out.
    alpha : weight of space against features where objects touch (`instances.voronoi`).

    Objects are detected with the evidence of the frames around (`movie.detect_movie`): a window of frames is in memory
    at a time. Masses are measured on the raw frame: linear in light, unlike the normalised one.
    """
    from cellfm_nb.movie import Movie, write_frames
    from cellfm_nb.movie.omezarr import add_label_name
    from cellfm_nb.progress import track

    movie = Movie.open(movie_path)
    tables: list[pd.DataFrame] = []

    spacing, kept = movie.spacing_um, deque()

    def volumes() -> Iterator[np.ndarray]:
        for t in track(range(movie.n_frames), "segment", total=movie.n_frames):
            volume = prepare(movie, t, c=channel, **options)[0]
            kept.append(volume.astype(np.float16))                                    # until its turn to be labelled
            yield volume

    def frames() -> Iterator[np.ndarray]:
        for t, spots in enumerate(detect_movie(volumes(), spacing, sigma_um, fdr)):
            volume = kept.popleft().astype(np.float32)
            grid = read_feature_grid(features_path, pca_path, t, spacing) if features_path is not None else None
            labels = segment_instances(volume, spots, spacing, sigma_um, grid, alpha)
            raw = movie.frame(t, channel).astype(np.float32)
            tables.append(object_table(labels, raw, spacing, spots, sigma_um, grid, t))
            yield labels

    shape = (movie.n_frames, 1, *movie.shape[2:])
    write_frames(labels_path, frames(), shape, np.uint32, movie.spacing_um, movie.dt_s, "objects", labels=True)
    add_label_name(movie_path, "objects")
    pd.concat(tables, ignore_index=True).to_parquet(objects_path, index=False)
