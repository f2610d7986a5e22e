"""The peers behind one interface: trackpy, LoG maxima, blob_log, a matched-filter t-test, Voronoi-Otsu."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import center_of_mass, correlate1d, gaussian_filter, gaussian_laplace

from cellfm_nb.errors import InputError
from cellfm_nb.segment.filters import check_volume, log_response
from cellfm_nb.segment.maxima import footprint_size, local_maxima, parabolic_offset
from cellfm_nb.segment.threshold import otsu_threshold

LATERAL_UM = (0.33, 0.13, 0.13)                             # a lattice light sheet's PSF, for who gives none


def detect_with(
    name: str, volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float] = LATERAL_UM
) -> pd.DataFrame:
    """Detect with a peer and return all it finds, best first; the caller cuts at a score.

    Parameters
    ----------
    name : "trackpy" (Crocker and Grier 1996, trackpy.locate, scored by mass), "log" (maxima of the Laplacian of
        Gaussian at the PSF's scale, as TrackMate does), "blob_log" (scikit-image's, three scales from the PSF's up),
        "t_test" (amplitude of a PSF on a constant over its standard error, as in CMEanalysis, Aguet et al. 2013),
        "voronoi_otsu" (Gaussian, Otsu, Voronoi, as in
        pyclesperanto; it has no score to cut at).
    volume : (z, y, x) float32; spacing_um, sigma_um : (z, y, x) micrometre.

    Returns
    -------
    Table z, y, x (voxels), z_um, y_um, x_um, score.

    Raises
    ------
    InputError for an unknown name.
    """
    if name not in PEERS:
        raise InputError("unknown detector", where="name", got=name, expected=", ".join(PEERS), do="choose one of them")
    v, spacing = check_volume(volume, spacing_um)
    position, score = PEERS[name](v, spacing, np.asarray(sigma_um, float))
    table = pd.DataFrame(np.asarray(position, float).reshape(-1, 3), columns=["z", "y", "x"])
    table[["z_um", "y_um", "x_um"]] = table[["z", "y", "x"]].to_numpy() * spacing
    table["score"] = score
    return table.sort_values("score", ascending=False, ignore_index=True)


def trackpy_blobs(v: np.ndarray, spacing: np.ndarray, psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return trackpy's features with a diameter of about 4 PSF sigma, whatever their mass."""
    import trackpy

    trackpy.quiet()
    diameter = tuple(int(2 * np.round(2 * s / d) + 1) for s, d in zip(psf, spacing, strict=True))
    shifted = np.clip((v - v.min()) * 100, 0, 60000).astype(np.uint16)        # trackpy drops what is below 0
    apart = tuple(d // 2 + 1 for d in diameter)                               # its default would drop close neighbours
    found = trackpy.locate(shifted, diameter, separation=apart, percentile=64, engine="python", characterize=False)
    return found[["z", "y", "x"]].to_numpy(), found["mass"].to_numpy()


def log_maxima(v: np.ndarray, spacing: np.ndarray, psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return local maxima of the LoG at the PSF's own scales, sub-voxel by parabola."""
    response = log_response(v, spacing, psf)
    peak = local_maxima(response, footprint_size(spacing, psf), float(response.std()))
    return peak + parabolic_offset(response, peak), response[tuple(peak.T)]


def blob_log(v: np.ndarray, spacing: np.ndarray, psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-image's blobs, scored by the LoG at their place; its own threshold is one deviation of the LoG."""
    from skimage.feature import blob_log as find

    sigma = psf / spacing
    response = -gaussian_laplace(v, sigma) * np.mean(sigma**2)
    found = find(v, sigma, 1.6 * sigma, num_sigma=3, threshold=float(response.std()), overlap=0.5)
    place = found[:, :3].astype(int)
    return place, response[tuple(place.T)]


def t_test(v: np.ndarray, spacing: np.ndarray, psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return maxima of the t-value of a PSF's amplitude, sub-voxel by parabola."""
    t = amplitude_t(v, psf / spacing)
    peak = local_maxima(t, footprint_size(spacing, psf), 1.0)
    return peak + parabolic_offset(t, peak), t[tuple(peak.T)]


def amplitude_t(v: np.ndarray, sigma_px: np.ndarray) -> np.ndarray:
    """Return at each voxel t = A / se(A) of the least-squares fit A g + c in a box of 3 sigma each way."""
    reach = np.maximum(np.ceil(3 * sigma_px), 1).astype(int)
    g = [np.exp(-0.5 * (np.arange(-r, r + 1) / s) ** 2) for r, s in zip(reach, sigma_px, strict=True)]

    def over_box(values: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
        for axis, kernel in enumerate(kernels):
            values = correlate1d(values, kernel, axis, mode="reflect")
        return values

    ones, wide = [np.ones(len(k)) for k in g], v.astype(float)
    n, g1, g2 = (float(np.prod([f(k) for k in g])) for f in (len, np.sum, lambda k: (k**2).sum()))
    of_g, total, square = over_box(wide, g), over_box(wide, ones), over_box(wide**2, ones)
    spread = g2 - g1**2 / n
    amplitude = (of_g - g1 * total / n) / spread
    rest = np.maximum(square - total**2 / n - amplitude**2 * spread, 1e-12)          # sum of squared residuals
    return amplitude / np.sqrt(rest / (n - 2) / spread)


def voronoi_otsu(v: np.ndarray, spacing: np.ndarray, psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centroids of Voronoi-Otsu labels, scored by their summed intensity."""
    labels = voronoi_otsu_labels(v, spacing, psf)
    index = np.unique(labels[labels > 0])
    if not len(index):
        return np.zeros((0, 3)), np.zeros(0)
    positive = np.maximum(v, 1e-6)
    return np.array(center_of_mass(positive, labels, index)), np.bincount(labels.ravel(), positive.ravel())[index]


def voronoi_otsu_labels(v: np.ndarray, spacing: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return labels uint32: maxima of a smoothed volume, each with its Voronoi cell of the Otsu foreground."""
    from cellfm_nb.segment.instances import voronoi

    smooth = gaussian_filter(v, psf / spacing)
    outline = gaussian_filter(v, 0.5 * psf / spacing)
    mask = outline > otsu_threshold(outline)
    seeds = local_maxima(np.where(mask, smooth, -np.inf), footprint_size(spacing, psf), -1e30)
    return voronoi(mask, seeds, spacing)


PEERS: dict[str, Callable] = {"trackpy": trackpy_blobs, "log": log_maxima, "blob_log": blob_log, "t_test": t_test,
                              "voronoi_otsu": voronoi_otsu}


def clesperanto_labels(volume: np.ndarray, spot_sigma: float, outline_sigma: float) -> np.ndarray:
    """Return labels uint32 by pyclesperanto's Voronoi-Otsu labelling; both sigmas are voxels, alike along the axes.

    Raises InputError, with the reason, where pyclesperanto or a device of OpenCL is missing: it is an optional peer.
    """
    try:
        import pyclesperanto as cle

        labels = cle.voronoi_otsu_labeling(volume, spot_sigma=spot_sigma, outline_sigma=outline_sigma)
    except (ImportError, AttributeError, RuntimeError) as error:                 # without a device it has no functions
        raise InputError("pyclesperanto does not run here", where="pyclesperanto",
                         got=f"{type(error).__name__}: {error}", expected="pyclesperanto with an OpenCL device",
                         do="pip install pyclesperanto[opencl] pocl-binary-distribution; OCL_ICD_VENDORS: a folder "
                            "with a pocl.icd that names its libpocl") from error
    return np.asarray(labels).astype(np.uint32)
