"""Measure the geometry of a stage scan on the stack itself: how far the picture moves from plane to plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cellfm_nb.curate.background import check_volume
from cellfm_nb.curate.geometry import plane_shift_px
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng

USUAL_ANGLE = 31.5  # degrees, of the lattice light-sheet microscopes in use
CELL = (10, 16)  # planes and lines of a cell: each gives a shift of its own
SYSTEMATIC = 0.01  # of the shift: what a slightly tilted PSF adds, and no bootstrap sees
UPSAMPLE = 16  # of the correlation curves


@dataclass(frozen=True)
class Geometry:
    """What `estimate_geometry` found: shift_px per plane (>= 0) and its 95% interval, direction, angle, step.

    word: "sure" (half the interval within 4%), "doubtful" or "not found" (numbers are then NaN); told, in a
    sentence, what was measured and what was taken on trust.
    """

    shift_px: float
    interval_px: tuple[float, float]
    direction: int
    angle_deg: float
    step_um: float
    word: str
    told: str


def estimate_geometry(raw: np.ndarray, pixel_um: float, step_um: float | None = None, angle_deg: float | None = None,
                      seed: int = 0) -> Geometry:
    """Estimate shift, direction, and of angle and step the one not given, from a raw stage-scan stack.

    The data hold one number only, the shift cos(angle) step / pixel. With the step it gives the angle, with the angle
    the step; with neither the usual 31.5 degrees are assumed, and told. With both the measured shift is compared.
    Every plane is cross-correlated along x with the next, in cells of 10 planes x 16 lines; the peak of the sum is
    the shift, and a bootstrap over cells gives its interval. Brightness is evened out first (`_even`): a few bright
    objects, or a flat cell on the coverslip, which does not move as the shear does, shall not decide. The camera's hot
    and dead pixels, which stay where they are, are taken off. Only what reaches from plane to plane is seen to move:
    steps beyond the PSF end in "not found" or a wide interval. Guizar-Sicairos et al. 2008 for the upsampling.
    Parameters: raw (p,y,x); pixel_um; step_um and angle_deg where known; seed of the bootstrap.
    Raises InputError on another shape, NaN, or an impossible pixel, step or angle.
    """
    check_volume(raw, "estimate_geometry", constant_ok=True)
    plane_shift_px(pixel_um, step_um or 1.0, USUAL_ANGLE if angle_deg is None else angle_deg)
    if step_um is not None and not step_um > 0:
        raise InputError("step_um must be a length.", got=step_um, expected="a positive number of micrometres",
                         do="Leave it out to have it estimated.")
    if raw.shape[0] < 4 or raw.shape[2] < 48 or raw.min() == raw.max():
        return _nothing("fewer than 4 planes or 48 columns, or nothing in them")
    shifts, curves = _correlate(raw)
    if not len(shifts):
        return _nothing("no picture that one plane shares with the next")
    shift = _peak(shifts, curves.sum(0))
    picks = rng(seed, "estimate geometry").integers(0, len(curves), (200, len(curves)))
    guesses = [_peak(shifts, curves[pick].sum(0)) for pick in picks]
    low, high = np.sort(np.quantile(guesses, (0.025, 0.975)) * (1 if shift >= 0 else -1)).tolist()
    low, high = low - SYSTEMATIC * abs(shift), high + SYSTEMATIC * abs(shift)
    # a bootstrap over a few cells knows nothing of its own uncertainty
    word = "sure" if len(curves) >= 8 and high - low < max(0.08 * abs(shift), 0.1) else "doubtful"
    return _explain(abs(shift), (low, high), 1 if shift >= 0 else -1, pixel_um, step_um, angle_deg, word)


def _even(plane: np.ndarray, sd: float | None = None) -> np.ndarray:
    """Keep what is as fine as a punctum, every punctum about as bright: smoothly, since clipping would alias."""
    plane = plane.astype(np.float32)
    fine = ndimage.gaussian_filter(plane, 1, truncate=3) - ndimage.gaussian_filter(plane, 3, truncate=3)
    if sd is None:
        return fine
    power = ndimage.gaussian_filter(fine * fine, 3, truncate=3)
    return fine * power / (power + 10 * sd * sd + 1e-12) ** 1.5


def _correlate(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shifts about the common peak and each cell's correlation there; nothing when no peak stands clear."""
    n_p, ny, nx = raw.shape
    n, margin, some = 2 ** math.ceil(math.log2(2 * nx)), min(16, nx // 4), raw[:: max(1, n_p // 32)]
    sd = float(np.median([np.median(np.abs(_even(plane))) for plane in some])) / 0.6745
    still = np.median(some, axis=0)
    still -= ndimage.median_filter(still, 3)
    still *= np.abs(still) > 8 * np.median(np.abs(still)) + 1e-9
    rows = np.arange(0, ny, CELL[1])
    cells = np.zeros((-(-n_p // CELL[0]), len(rows), n // 2 + 1), np.complex64)  # cross-spectra along x
    before = np.zeros((), np.complex64)
    for p, plane in enumerate(raw):
        plane = _even(plane - still, sd)
        cells[p // CELL[0]] += np.add.reduceat(before * np.fft.rfft(plane, n=n, axis=1), rows)
        # only one of the two pictures is cut at its edges: with both cut alike it would seem to move less
        plane[:, :margin] = plane[:, nx - margin :] = 0
        before = np.fft.rfft(plane, n=n, axis=1).conj()
    cells = cells.reshape(-1, n // 2 + 1)
    common = np.fft.fftshift(np.fft.irfft(cells.sum(0), n=n))
    top = int(common.argmax())
    rest = np.delete(common, slice(max(top - 8, 0), top + 9))
    if common[top] < np.median(rest) + 8 * 1.4826 * np.median(np.abs(rest - np.median(rest))):
        return np.empty(0), np.empty(0)
    moved = top - n // 2 + np.arange(-2 * UPSAMPLE, 2 * UPSAMPLE + 1) / UPSAMPLE
    wave = np.exp(2j * np.pi / n * np.outer(np.arange(n // 2 + 1), moved)).astype(np.complex64)
    return -moved, (cells @ wave).real  # the picture moves to small x where the sheet moves to large x


def _peak(at: np.ndarray, curve: np.ndarray) -> float:
    """Return where a curve is highest, refined by a parabola."""
    k = int(np.clip(curve.argmax(), 1, len(at) - 2))
    left, middle, right = curve[k - 1 : k + 2]
    bend = 2 * middle - left - right
    return float(at[k] + (at[1] - at[0]) * (np.clip((right - left) / 2 / bend, -1, 1) if bend > 0 else 0))


def _explain(size: float, interval: tuple[float, float], direction: int, pixel_um: float, step_um: float | None,
             angle_deg: float | None, word: str) -> Geometry:
    """Turn the shift into angle or step, and say what it rests on."""
    told = f"{size:.3f} px per plane (95% {interval[0]:.3f} to {interval[1]:.3f}), direction {direction:+d}"
    if step_um is not None and angle_deg is not None:
        given = abs(plane_shift_px(pixel_um, step_um, angle_deg))
        told += f"; step and angle given say {given:.3f}"
        if abs(given - size) > max(0.05 * given, 0.1):
            word, told = "doubtful", told + ", which does not fit"
    elif step_um is not None:
        if size * pixel_um > step_um:
            return _nothing(f"{told}, which is more than the whole step")
        angle_deg = math.degrees(math.acos(size * pixel_um / step_um))
        ends = [math.degrees(math.acos(min(1.0, s * pixel_um / step_um))) for s in interval]
        told += f"; with the step given, angle {angle_deg:.2f} degrees ({min(ends):.2f} to {max(ends):.2f})"
    else:
        assumed = angle_deg is None
        angle_deg = USUAL_ANGLE if assumed else angle_deg
        if size < 0.05 or angle_deg > 89:
            return _nothing(f"{told}; a picture that does not move tells no step")
        step_um = size * pixel_um / math.cos(math.radians(angle_deg))
        told += f"; step {step_um:.4f} um with the angle {f'assumed ({angle_deg:g} degrees)' if assumed else 'given'}"
        word = "doubtful" if assumed else word
    return Geometry(size, interval, direction, angle_deg, step_um, word, f"{word}: {told}")


def _nothing(why: str) -> Geometry:
    return Geometry(math.nan, (math.nan, math.nan), 1, math.nan, math.nan, "not found", f"not found: {why}")
