"""The twin beside the real stack: what both are measured by, how far apart they are, and a scene made to be like it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from cellfm_nb.errors import InputError
from cellfm_nb.movie.spacing import parse_spacing
from cellfm_nb.simulate.camera import Camera
from cellfm_nb.simulate.cell import Cell
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.optics import Psf

Triple = tuple[float, float, float]
THRESHOLD = 6.0  # robust sd of the filtered volume, above which a local maximum is a punctum
MOST = 3000  # puncta measured in a volume, the brightest
FLAT = 5  # so many equal voxels in a row along y hold no light: what deskewing filled


@dataclass(frozen=True)
class Portrait:
    """What a volume is compared by.

    background: median of the valid voxels; dark: their 10th percentile; noise_variance: of one voxel against its
    neighbours in the plane, on the dimmer half (counts, counts^2); puncta: z, y, x (voxels), peak (counts above the
    local background), width_z, width_y, width_x (sd in um, the PSF's and the voxel's included); spectrum: frequency
    (cycles per um), power (of the planes, radial mean, counts^2 per voxel); volume_um3: in which puncta were looked
    for, so not the rim of the field.
    """

    background: float
    dark: float
    noise_variance: float
    puncta: pd.DataFrame
    spectrum: pd.DataFrame
    volume_um3: float


def portrait(volume: np.ndarray, spacing_um: Triple, sigma_um: Triple) -> Portrait:
    """Measure a volume, simulated or real, in the same way.

    Parameters: volume (z, y, x), counts; spacing_um; sigma_um of the PSF, whose size puncta are looked for at.
    Voxels that deskewing filled with one value are left out. Raises InputError unless finite and 3D, >= 8 a side.
    """
    volume, spacing = np.asarray(volume), parse_spacing(spacing_um)
    if volume.ndim != 3 or min(volume.shape) < 8 or not np.isfinite(volume).all():
        raise InputError("This can't be compared.", got=f"shape {volume.shape}",
                         expected="a finite volume (z, y, x), at least 8 voxels a side", do="Give one frame.")
    volume = volume.astype(np.float32)
    equal = np.diff(volume, axis=1, append=np.inf) == 0
    flat = ndimage.maximum_filter1d(ndimage.minimum_filter1d(equal, FLAT, axis=1), FLAT + 2, axis=1)
    if flat.all():
        raise InputError("This volume holds one value.", expected="light and noise", do="Give another frame.")
    inner = np.s_[:, 1:-1, 1:-1]
    around = (volume[:, :-2, 1:-1] + volume[:, 2:, 1:-1] + volume[:, 1:-1, :-2] + volume[:, 1:-1, 2:]) / 4
    dark, background = (float(q) for q in np.percentile(volume[~flat], [10, 50]))
    dim = ~flat[inner] & (around <= background)
    low, high = np.percentile((volume[inner] - around)[dim], [15.87, 84.13])
    half = np.ceil(3 * np.divide(sigma_um, spacing)).astype(int)  # of the window a punctum is measured in
    searched = float((~flat)[tuple(slice(h, -h) for h in half)].sum() * np.prod(spacing))
    return Portrait(background, dark, float((high - low) ** 2 / 4 / 1.25),
                    _puncta(volume, ~flat, spacing, sigma_um, half), _spectrum(volume, spacing), searched)


def compare_with_real(simulated: np.ndarray | Portrait, real: np.ndarray | Portrait, spacing_um: Triple,
                      sigma_um: Triple) -> pd.DataFrame:
    """Compare a simulated volume with a real one.

    Parameters: two volumes (z, y, x) in counts with one spacing_um (both deskewed alike, if at all), or their
    portraits; sigma_um of the PSF.
    Returns: one row a measure: simulated, real (medians of what is distributed), distance, and what the distance is:
    log2 of the ratio, Wasserstein distance relative to the real median, or the rms log10 ratio of the spectra.
    """
    from scipy.stats import wasserstein_distance  # slow to import

    ours, theirs = (p if isinstance(p, Portrait) else portrait(p, spacing_um, sigma_um) for p in (simulated, real))
    rows = []
    for name, unit, a, b in (
            ("background", "counts", ours.background, theirs.background),
            ("dark", "counts", ours.dark, theirs.dark),
            ("noise variance", "counts^2", ours.noise_variance, theirs.noise_variance),
            ("puncta", "per 1000 um^3", *(1000 * len(p.puncta) / p.volume_um3 for p in (ours, theirs)))):
        rows.append((name, unit, a, b, float(np.log2(a / b)) if a > 0 and b > 0 else np.nan, "log2 ratio"))
    for name, unit in (("peak", "counts"), ("width_z", "um"), ("width_y", "um"), ("width_x", "um")):
        a, b = ours.puncta[name], theirs.puncta[name]
        far = wasserstein_distance(a, b) / b.median() if len(a) and len(b) else np.nan
        rows.append((name, unit, a.median(), b.median(), far, "Wasserstein / real median"))
    ratio = np.log10(ours.spectrum["power"]) - np.log10(theirs.spectrum["power"])
    total = [p.spectrum["power"].mean() for p in (ours, theirs)]
    rows.append(("power spectrum", "counts^2", *total, float(np.sqrt(np.mean(ratio**2))), "rms log10 ratio"))
    return pd.DataFrame(rows, columns=["measure", "unit", "simulated", "real", "distance", "distance is"])


def scene_like(real: np.ndarray | Portrait, shape: tuple[int, int, int], spacing_um: Triple, psf: Psf, camera: Camera,
               **overrides: object) -> SceneConfig:
    """Make a scene whose puncta have the density, brightness and size of a real volume's.

    Parameters: real (z, y, x), counts, deskewed, or its portrait; shape (z, y, x) of the scene's field; spacing_um of
    both; psf and camera, measured, which the scene is to be drawn with; overrides, fields of SceneConfig.
    Returns: SceneConfig of one frame, its SNR and background in photoelectrons of that camera. Puncta are as many in
    the field (with `envelope="box"`, for a part of a cell: as dense) as those that stand out in the volume: faint ones
    are not counted, and two that touch count as one.
    Raises InputError when no punctum stands out.
    """
    seen = real if isinstance(real, Portrait) else portrait(real, spacing_um, psf.sigma_um)
    if len(seen.puncta) < 10:
        raise InputError("Too few puncta stand out.", got=len(seen.puncta), expected="10 or more",
                         do="Give a volume with puncta, or set the scene by hand.")
    peaks = np.log(seen.puncta["peak"])
    noise = np.sqrt(camera.background + camera.read_noise**2)
    lateral = seen.puncta[["width_y", "width_x"]].mean(axis=1).to_numpy()
    body = np.sqrt(np.clip(lateral**2 - np.mean(np.square(psf.sigma_um[1:])), 0, 0.25))  # beyond the PSF
    size = tuple(np.multiply(shape, spacing_um))
    inside = np.prod(size) if overrides.get("envelope", "cell") == "cell" else Cell.make(size, "box").volume_um3()
    found = {"n_puncta": max(1, round(len(seen.puncta) / seen.volume_um3 * float(inside))),
             "snr": float(np.exp(peaks.median())) / camera.gain / noise,
             "brightness_spread": float((peaks.quantile(0.84) - peaks.quantile(0.16)) / 2),
             "radius_um": tuple(np.quantile(body, [0.1, 0.9])), "background_photons": camera.background,
             "outside": float(np.clip((seen.dark - camera.offset) / camera.gain / camera.background, 0, 1))}
    return SceneConfig(**{"shape": (1, *shape), "spacing_um": spacing_um} | found | overrides)


def _puncta(volume: np.ndarray, valid: np.ndarray, spacing: Triple, sigma_um: Triple,
            half: np.ndarray) -> pd.DataFrame:
    """Find local maxima of the light at the PSF's size, and measure each one."""
    sigma = np.divide(sigma_um, spacing)
    # roots make the noise of photons even; the difference of Gaussians sees what is as large as the PSF
    root = np.sqrt(np.clip(volume - np.percentile(volume[valid], 0.1), 0, None))
    seen = ndimage.gaussian_filter(root, sigma) - ndimage.gaussian_filter(root, 2 * sigma)
    # noise: the dimmer side of the middle, which puncta do not reach
    middle = np.median(seen[valid])
    sd = (middle - np.percentile(seen[valid], 15.87))
    size = 2 * np.ceil(sigma).astype(int) + 1
    top = (seen == ndimage.maximum_filter(seen, size)) & (seen > middle + THRESHOLD * sd) & valid
    places = np.argwhere(top)
    inside = ((places >= half) & (places < np.array(volume.shape) - half)).all(1)
    places = places[inside]
    places = places[np.argsort(-seen[tuple(places.T)])[:MOST]]
    window = np.stack(np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing="ij"), -1).reshape(-1, 3)
    light = volume[tuple((places[:, None] + window).transpose(2, 0, 1))].astype(float)  # (n, voxels)
    offset, width, peak = _moments(light, window, sigma)
    keep = (peak > 0) & (np.abs(offset) < sigma).all(1)
    columns = {a: (places + offset)[keep, i] for i, a in enumerate("zyx")} | {"peak": peak[keep]}
    columns |= {f"width_{a}": (width * spacing)[keep, i] for i, a in enumerate("zyx")}
    return pd.DataFrame(columns)


def _moments(light: np.ndarray, window: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, ...]:
    """Measure centre (n, 3), width (n, 3) and peak (n,) of puncta (n, voxels) by moments with a Gaussian weight.

    The weight is moved and widened until it fits what it weighs: a weight as wide as the punctum halves its variance.
    Method: adaptive moments, Bernstein and Jarvis 2002.
    """
    shell = (np.abs(window) == np.abs(window).max(0)).any(1)
    light = light - np.median(light[:, shell], axis=1, keepdims=True)
    centre, width = np.zeros((len(light), 3)), np.tile(sigma, (len(light), 1))
    for _ in range(20):
        away = window - centre[:, None]  # (n, voxels, 3)
        weight = np.exp(-0.5 * (np.square(away) / np.square(width)[:, None]).sum(-1))
        part = weight * light
        whole = np.maximum(part.sum(1), 1e-9)[:, None]
        centre = np.clip(centre + (part[..., None] * away).sum(1) / whole, -2 * sigma, 2 * sigma)
        seen = np.maximum((part[..., None] * np.square(away)).sum(1) / whole, 1e-3)
        narrower = 1 / seen - 1 / np.square(width)
        width = np.clip(np.sqrt(1 / np.maximum(narrower, 1e-9)), 0.5 * sigma, 2.5 * sigma)
    weight = np.exp(-0.5 * (np.square(window - centre[:, None]) / np.square(width)[:, None]).sum(-1))
    return centre, width, (weight * light).sum(1) / np.square(weight).sum(1)


def _spectrum(volume: np.ndarray, spacing: Triple) -> pd.DataFrame:
    """Return the mean power of the planes by spatial frequency, in 24 rings up to the Nyquist frequency."""
    shape = volume.shape[1:]
    fade = np.hanning(shape[0])[:, None] * np.hanning(shape[1])
    fade /= np.sqrt(np.mean(fade**2))
    power = np.zeros(shape)
    for plane in volume[:: max(1, len(volume) // 32)]:
        power += np.abs(np.fft.fft2((plane - plane.mean()) * fade)) ** 2 / plane.size
    radius = np.hypot(np.fft.fftfreq(shape[0], spacing[1])[:, None], np.fft.fftfreq(shape[1], spacing[2]))
    edges = np.linspace(0, 0.5 / max(spacing[1:]), 25)
    ring = np.digitize(radius.ravel(), edges) - 1
    inside = (ring < 24) & (radius.ravel() > 0)
    mean = np.bincount(ring[inside], power.ravel()[inside], 24) / np.maximum(np.bincount(ring[inside], minlength=24), 1)
    planes = len(volume[:: max(1, len(volume) // 32)])
    return pd.DataFrame({"frequency": (edges[1:] + edges[:-1]) / 2, "power": np.maximum(mean / planes, 1e-9)})
