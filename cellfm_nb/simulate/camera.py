"""The camera: photons in, counts out; and its constants read off a real stack by the photon-transfer line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng

Pixels = tuple[np.ndarray, np.ndarray]  # hot electrons a frame and read noise, (y, x) each
READ_FOR_QUICK = 1.0  # photoelectrons: less would leave the steps of single electrons to be seen
PLANES = 32  # planes of a stack that are looked at
GAIN_BOUNDS = (0.1, 20.0)  # counts per photoelectron of cameras in use


@dataclass(frozen=True)
class Camera:
    """Turn photoelectrons into counts: counts = offset + gain * (Poisson(photons + hot) + Normal(0, read_noise)).

    offset: counts without light; gain: counts per photoelectron; read_noise: photoelectrons, sd; background:
    photoelectrons of diffuse light in the cell of the stack it was measured on; source: where the numbers come from.
    hot_share: of the pixels, which give on average hot_electrons a frame without light (exponentially spread);
    read_spread: sd of the log of the pixels' read noise, whose median is read_noise (sCMOS: one amplifier a pixel);
    quick: draw shot and read noise as one number with their mean, variance and skewness (see `_quick`), which is
    about four times as fast, and used from READ_FOR_QUICK read noise on.
    The defaults are those of a common sCMOS camera, all pixels alike.
    """

    offset: float = 100.0
    gain: float = 2.0
    read_noise: float = 1.6
    background: float = 8.0
    source: str = "assumed: a common sCMOS camera"
    hot_share: float = 0.0
    hot_electrons: float = 100.0
    read_spread: float = 0.0
    quick: bool = False

    def __post_init__(self) -> None:
        if not (self.gain > 0 and min(self.offset, self.read_noise, self.background, self.hot_electrons,
                                      self.read_spread) >= 0 and 0 <= self.hot_share <= 1):
            raise InputError("No camera has these constants.", got=self,
                             expected="gain > 0; hot_share 0 to 1; the others >= 0", do="Correct them.")

    def pixels(self, shape: tuple[int, int], seed: int) -> Pixels | None:
        """Draw what is fixed in a camera of shape (y, x): the same for every plane and frame of a movie.

        Returns: hot electrons a frame, and read noise, both (y, x) float32; or None when all pixels are alike.
        """
        if not (self.hot_share or self.read_spread):
            return None
        draw = rng(seed, "simulate", "pixels")
        hot = np.where(draw.uniform(size=shape) < self.hot_share, draw.exponential(self.hot_electrons, shape), 0)
        read = self.read_noise * np.exp(self.read_spread * draw.standard_normal(shape))
        return hot.astype(np.float32), read.astype(np.float32)

    def expose(self, photons: np.ndarray, rng: np.random.Generator, pixels: Pixels | None = None) -> np.ndarray:
        """Take a picture.

        Parameters: photons, (..., y, x) expected photoelectrons a voxel, >= 0; rng, the generator of this frame's
        noise; pixels, what `pixels` drew for this camera.
        Returns: (..., y, x) uint16 counts, rounded, clipped to 0..65535.
        Raises InputError on negative or non-finite light.
        """
        photons = np.asarray(photons)
        if not np.isfinite(photons).all() or (photons.size and photons.min() < 0):
            raise InputError("Light must be finite and not negative.", got="other values",
                             expected="photons >= 0", do="Check the scene.")
        hot, read = (0, self.read_noise) if pixels is None else pixels
        photons = photons + hot if pixels else photons
        if self.quick and self.read_noise >= READ_FOR_QUICK:
            counts = _quick(photons, read, rng)
        else:
            counts = rng.poisson(photons) + read * rng.standard_normal(photons.shape, np.float32)
        counts *= self.gain  # in place: a frame may be large
        counts += self.offset
        return np.rint(counts, out=counts).clip(0, 65535, out=counts).astype(np.uint16)


def _quick(photons: np.ndarray, read: float | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw Poisson(photons) + Normal(0, read) from one normal number each: (..., y, x) float32.

    x = m + s z + a (z^2 - 1) with a = m / (6 v), s^2 = v - 2 a^2, v = m + read^2: the mean and variance exactly, the
    third moment to 0.3 %; for read >= 1 its distribution function is within 0.003 of the exact one at any light.
    Method: Cornish and Fisher 1938, second term.
    """
    counts = np.empty(photons.shape, np.float32)
    noise = np.broadcast_to(np.square(read, dtype=np.float32), photons.shape[-2:])
    for light, out in zip(photons.reshape(-1, *photons.shape[-2:]), counts.reshape(-1, *photons.shape[-2:]),
                          strict=True):  # plane by plane: stays in the processor's cache
        z = rng.standard_normal(light.shape, np.float32)
        v = light + noise
        a = light / (6 * v)
        out[:] = light + z * (np.sqrt(v - 2 * a * a) + a * z) - a
    return counts


def camera_from_stack(raw: np.ndarray, source: str = "measured on the stack") -> Camera:
    """Read a camera's constants off one raw stack.

    Parameters: raw (z, y, x), counts straight from the camera (no deskew or resampling: those average noise away).
    Returns: Camera. offset: 1st percentile of the means of 8 x 8 blocks (its darkest corner); gain and read noise:
    the line var = gain * (mean - offset) + (gain * read_noise)^2 through the plane-local residuals of dim pixels;
    background: median light of what is brighter than the dark. Where the stack does not determine the line (too
    little range, slope out of bounds) gain and read noise stay at the defaults, and `source` says so.
    Raises InputError unless raw is a finite 3D stack of at least 16 x 16 pixels.
    Method: photon transfer, Janesick 2007; residual against the mean of the 4 neighbours, which carry no noise of
    the pixel itself.
    """
    raw = np.asarray(raw)
    if raw.ndim != 3 or min(raw.shape[1:]) < 16 or not np.isfinite(raw).all():
        raise InputError("No camera can be read off this.", got=f"shape {raw.shape}",
                         expected="a finite raw stack (z, y, x), at least 16 x 16 pixels", do="Give the raw stack.")
    planes = np.unique(np.linspace(0, len(raw) - 1, PLANES).astype(int))
    stack = raw[planes].astype(np.float32)
    blocks = ndimage.uniform_filter(stack, (1, 8, 8))[:, 4::8, 4::8].ravel()
    offset = max(0.0, float(np.percentile(blocks, 1)))
    around = (stack[:, :-2, 1:-1] + stack[:, 2:, 1:-1] + stack[:, 1:-1, :-2] + stack[:, 1:-1, 2:]) / 4
    residual = (stack[:, 1:-1, 1:-1] - around) / np.sqrt(1.25)  # variance of pixel - mean of four: 1.25 of one
    mean, var = _transfer_curve(around.ravel(), residual.ravel(), offset)
    default = Camera()
    gain, read, how = default.gain, default.read_noise, "gain and read noise assumed, the stack does not tell them"
    if len(mean) >= 5:
        slope, at_offset = np.polyfit(mean - offset, var, 1, w=1 / np.maximum(var, var.max() / 50))
        explained = np.corrcoef(mean, var)[0, 1] ** 2
        if GAIN_BOUNDS[0] <= slope <= GAIN_BOUNDS[1] and explained > 0.8:
            gain, how = float(slope), "gain and read noise measured"
            read = float(np.clip(np.sqrt(max(at_offset, 0)) / gain, 0.5, 10))
    lit = blocks[blocks > offset + 3 * gain * read / 8 + 2]  # a block averages 64 pixels: its sd is an eighth
    background = float(np.median(lit) - offset) / gain if len(lit) > 0.02 * len(blocks) else default.background
    return Camera(offset, gain, read, background, f"{source} (offset and background measured, {how})")


def _transfer_curve(around: np.ndarray, residual: np.ndarray, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Bin residuals by local mean; return (bins,) means and robust variances of bins that hold enough pixels.

    Only the dim 95 % is used: bright pixels sit on structure, which adds to their residuals.
    """
    top = np.percentile(around, 95)
    if top - offset < 5:
        return np.empty(0), np.empty(0)
    edges = np.linspace(offset, top, 13)
    which = np.digitize(around, edges)
    means, variances = [], []
    for i in range(1, len(edges)):
        inside = residual[which == i]
        if len(inside) >= 500:
            low, high = np.percentile(inside, [15.87, 84.13])
            means.append(float(around[which == i].mean()))
            variances.append(((high - low) / 2) ** 2)
    return np.array(means), np.array(variances)
