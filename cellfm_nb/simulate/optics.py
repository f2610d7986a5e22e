"""Optics: a point-spread function, measured or Gaussian, and puncta drawn through it at sub-voxel positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage, optimize

from cellfm_nb.errors import InputError
from cellfm_nb.movie.spacing import parse_spacing

Triple = tuple[float, float, float]
DEFAULT_SIGMA_UM: Triple = (0.35, 0.13, 0.13)  # of the lattice light-sheet PSF of `llsm_pycudadecon`, rounded
REACH = 4.5  # a kernel holds this many sigma to either side of its centre


@dataclass(frozen=True)
class Psf:
    """Hold a point-spread function and draw puncta through it.

    kernel: (z, y, x) float32, odd sizes, sum 1, centroid on the middle sample; spacing_um: of its samples;
    sigma_um: (z, y, x) widths of the Gaussian nearest to it along the axes; source: where it comes from.
    """

    kernel: np.ndarray
    spacing_um: Triple
    sigma_um: Triple
    source: str

    def _sampled(self, axis: int, away_um: np.ndarray, radius_um: float, voxel_um: float) -> np.ndarray:
        """Return the matrix (..., p, n) that turns the kernel's samples along an axis into light in voxels.

        Parameters: away_um (..., p), voxel centres from the punctum's.
        """
        frequency, window, wave = _waves(self.kernel.shape[axis], self.spacing_um[axis], voxel_um)
        body = np.exp(-2 * (np.pi * radius_um * frequency) ** 2) * window
        turns = 2 * np.pi * away_um[..., None] * frequency
        return np.concatenate([np.cos(turns) * body, np.sin(turns) * body], -1) @ wave

    def half_width_px(self, spacing_um: Triple, radius_um: float = 0.0) -> tuple[int, int, int]:
        """Return how far, in voxels of a movie, a punctum of that size can reach from its centre."""
        reach = [n // 2 * h + REACH * radius_um for n, h in zip(self.kernel.shape, self.spacing_um, strict=True)]
        period = [n * h for n, h in zip(self.kernel.shape, self.spacing_um, strict=True)]
        return tuple(math.ceil(min(r, 0.95 * p) / s) for r, p, s in zip(reach, period, spacing_um, strict=True))

    def patch(self, position_px: np.ndarray, radius_um: float, spacing_um: Triple,
              shear_px: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Draw one punctum of unit light, integrated over voxels.

        Parameters: position_px (3,) z, y, x of its centre in voxels (voxel 0 spans -0.5 to 0.5); radius_um, the
        sigma of its Gaussian body; spacing_um of the movie; shear_px, how far plane z is moved along -x, per plane
        (0, or a stage scan's: see `Scan`).
        Returns: patch (pz, py, px) float64, non-negative, sum 1; and (3,) int, the voxel its first corner lies on.
        Method: kernel(f) exp(-2 pi^2 r^2 f^2) sinc(f a) exp(2 pi i f (x - c)), one small real matrix per axis: the
        exact band-limited shift, so no interpolation error moves the centroid.
        """
        half = np.array(self.half_width_px(spacing_um, radius_um))
        corner = np.rint(position_px).astype(int) - half
        away = [(np.arange(2 * h + 1) + c - p) * s
                for h, c, p, s in zip(half, corner, position_px, spacing_um, strict=True)]
        middle = position_px[2] - shear_px * (np.arange(2 * half[0] + 1) + corner[0])  # (pz,) the centre's x
        first = np.rint(middle).astype(int) - half[2]
        if shear_px:
            away[2] = (np.arange(2 * half[2] + 1) + (first - middle)[:, None]) * spacing_um[2]  # (pz, px)
        along_z, along_y, along_x = (self._sampled(axis, away[axis], radius_um, spacing_um[axis]) for axis in range(3))
        image = np.tensordot(along_z, self.kernel, 1)  # (pz, ny, nx)
        image = along_y @ image @ np.swapaxes(along_x, -1, -2)  # (pz, py, px)
        image = np.clip(image, 0, None)  # band-limited shifts ring by about 1e-4 of the peak
        image /= image.sum()
        if not shear_px:
            return image, corner
        corner[2] = first.min()
        sheared = np.zeros((*image.shape[:2], image.shape[2] + first.max() - first.min()))
        for plane, moved, x in zip(image, sheared, first - corner[2], strict=True):
            moved[:, x:x + image.shape[2]] = plane
        return sheared, corner

    def render(self, shape: tuple[int, int, int], positions_px: np.ndarray, photons: np.ndarray,
               radius_um: np.ndarray | float, spacing_um: Triple) -> np.ndarray:
        """Draw puncta into a volume; memory is one volume and one small patch.

        Parameters: shape (z, y, x); positions_px (n, 3); photons (n,) light of each; radius_um (n,) or one number;
        spacing_um of the volume.
        Returns: (z, y, x) float32, expected photons a voxel. What falls outside the volume is cut off.
        Raises InputError: arrays that do not fit together, negative light or size.
        """
        positions = np.asarray(positions_px, float).reshape(-1, 3)
        photons = np.broadcast_to(np.asarray(photons, float), len(positions))
        radii = np.broadcast_to(np.asarray(radius_um, float), len(positions))
        if not (np.isfinite(positions).all() and (photons >= 0).all() and (radii >= 0).all()):
            raise InputError("Puncta can't be drawn.", got="a position that is no number, or negative light or size",
                             expected="finite positions, photons >= 0, radius >= 0", do="Check the table of puncta.")
        parse_spacing(spacing_um)
        volume = np.zeros(shape, np.float32)
        for position, light, radius in zip(positions, photons, radii, strict=True):
            patch, corner = self.patch(position, radius, spacing_um)
            inside, part = overlap(corner, patch.shape, shape)
            volume[inside] += (light * patch[part]).astype(np.float32)
        return volume


@lru_cache(maxsize=64)
def _waves(n: int, spacing_um: float, voxel_um: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for n samples of a kernel: (f,) cycles per um, (f,) what a voxel passes of them, and (2f, n) their waves.

    The samples are taken as padded to twice their number, so that a shifted copy never wraps round.
    """
    frequency = np.fft.rfftfreq(2 * n, spacing_um)
    turns = 2 * np.pi * np.outer(frequency, (np.arange(n) - n // 2) * spacing_um)
    weight = np.where((frequency == 0) | (np.arange(n + 1) == n), 0.5, 1.0)[:, None] / n
    waves = np.concatenate([weight * np.cos(turns), weight * np.sin(turns)])
    return frequency, np.sinc(frequency * voxel_um), waves


def overlap(corner: np.ndarray, size: tuple[int, ...], shape: tuple[int, ...]) -> tuple[tuple, tuple]:
    """Return the slices of a volume that a patch at `corner` covers, and the slices of the patch that lie in it."""
    low = [min(max(0, c), n) for c, n in zip(corner, shape, strict=True)]
    high = [max(a, min(c + s, n)) for a, c, s, n in zip(low, corner, size, shape, strict=True)]
    inside = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    part = tuple(slice(int(a - c), int(b - c)) for a, b, c in zip(low, high, corner, strict=True))
    return inside, part


def gaussian_psf(sigma_um: Triple = DEFAULT_SIGMA_UM, spacing_um: Triple | None = None) -> Psf:
    """Make a Gaussian PSF, the one used when no measured one can be reached.

    Parameters: sigma_um (z, y, x); spacing_um of the kernel's samples, default sigma/2 (fine enough that sampling
    loses nothing; more than sigma/1.4 is refused). Returns: Psf. Raises InputError on sizes that are not positive.
    """
    sigma = parse_spacing(sigma_um, "sigma_um")
    spacing = tuple(s / 2 for s in sigma) if spacing_um is None else parse_spacing(spacing_um)
    if any(h > s / 1.4 for h, s in zip(spacing, sigma, strict=True)):
        raise InputError("This spacing undersamples the PSF.", got=f"spacing {spacing} for sigma {sigma} um",
                         expected="spacing <= sigma / 1.4 on every axis",
                         do="Give a finer kernel; movies may be coarser.")
    kernel = np.ones((1, 1, 1))
    for axis, (s, h) in enumerate(zip(sigma, spacing, strict=True)):
        n = math.ceil(REACH * s / h)
        profile = np.exp(-0.5 * (np.arange(-n, n + 1) * h / s) ** 2)
        kernel = kernel * profile.reshape([-1 if a == axis else 1 for a in range(3)])
    return Psf((kernel / kernel.sum()).astype(np.float32), spacing, sigma, "Gaussian model")


def measured_psf(image: np.ndarray, spacing_um: Triple, source: str = "measured") -> Psf:
    """Make a PSF from the picture of a bead.

    Parameters: image (z, y, x), counts, one bead well inside; spacing_um of its voxels.
    Returns: Psf: background (median) removed, only the connected part around the peak above 3 noise sd kept, centroid
    moved onto the middle sample, cropped to REACH sigma, sum 1. sigma_um: least-squares Gaussians along the axes.
    Raises InputError: not 3D, values that are no numbers, no bead above the noise, or a bead at the rim.
    """
    image, spacing = np.asarray(image, np.float64), parse_spacing(spacing_um)
    if image.ndim != 3 or min(image.shape, default=0) < 5 or not np.isfinite(image).all():
        raise InputError("Not a PSF image.", got=f"shape {image.shape}, finite {bool(np.isfinite(image).all())}",
                         expected="a finite (z, y, x) volume, at least 5 voxels on a side", do="Give a bead stack.")
    image = image - np.median(image)
    noise = 1.4826 * np.median(np.abs(image))
    smooth = ndimage.gaussian_filter(image, 0.7)
    peak = np.unravel_index(smooth.argmax(), image.shape)
    if smooth[peak] <= max(8 * noise, 0):
        raise InputError("No bead stands out in the PSF image.", got=f"peak {smooth[peak]:.3g}, noise {noise:.3g}",
                         expected="a peak above 8 noise sd", do="Give a brighter bead, or leave the PSF out.")
    sigma = tuple(_fit_sigma(smooth, image, peak, axis) for axis in range(3))  # samples
    half = [max(2, math.ceil(REACH * s)) for s in sigma]
    regions, _ = ndimage.label(smooth > max(3 * noise, 1e-3 * smooth[peak]))
    bead = np.where(regions == regions[peak], image, 0).clip(0)
    room = [min(p, n - 1 - p) for p, n in zip(peak, image.shape, strict=True)]
    if any(r < 2 * s for r, s in zip(room, sigma, strict=True)):
        raise InputError("The bead lies at the rim of the PSF image.", got=f"peak at voxel {tuple(map(int, peak))}",
                         expected="at least 2 sigma to every face", do="Crop the bead stack around the bead.")
    padded = np.pad(bead, [(h + 1, h + 1) for h in half])
    for _ in range(3):  # cropping and clipping move the centroid a little: centre, crop, look again
        middle = [int(p) + h + 1 for p, h in zip(peak, half, strict=True)]
        window = tuple(slice(m - h, m + h + 1) for m, h in zip(middle, half, strict=True))
        centroid = np.array(ndimage.center_of_mass(padded[window])) - half
        padded = ndimage.shift(padded, -centroid, order=3, prefilter=True).clip(0)
    kernel = padded[window]
    sigma_um = tuple(s * h for s, h in zip(sigma, spacing, strict=True))
    return Psf((kernel / kernel.sum()).astype(np.float32), spacing, sigma_um, source)


def _fit_sigma(smooth: np.ndarray, image: np.ndarray, peak: tuple, axis: int) -> float:
    """Fit a Gaussian to the profile through the peak along one axis; return its sigma in samples."""
    along = tuple(slice(None) if a == axis else p for a, p in enumerate(peak))
    line, above = image[along], np.flatnonzero(smooth[along] > smooth[peak] / 2)
    first = max(0.6, len(above) / 2.355)
    x = np.arange(len(line)) - peak[axis]
    near = np.abs(x) <= max(3, math.ceil(3 * first))
    top = line[near].max()
    fit = optimize.least_squares(lambda p: p[0] * np.exp(-0.5 * ((x[near] - p[1]) / p[2]) ** 2) - line[near] / top,
                                 (1.0, 0.0, first))
    return float(abs(fit.x[2]))
