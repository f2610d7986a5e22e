"""Measure the geometry of a stage scan on the stack itself: how far the picture moves from plane to plane."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from cellfm_nb.curate.background import check_volume
from cellfm_nb.curate.geometry import along_x, plane_shift_px
from cellfm_nb.seeds import rng

USUAL_ANGLE = 31.5  # degrees, of the lattice light-sheet microscopes in use
CELL = (10, 16)  # planes and lines of a cell: each gives a shift of its own
SYSTEMATIC = 0.01  # of the shift: what a slightly tilted PSF adds, and no bootstrap sees
BIASED = 0.2  # of what coarse structure says otherwise may be left as bias (red blood cells: 0.07)
STILL = 0.2  # px per plane: drift and a tilted stage move a stack as much that was never skewed
REACH, UPSAMPLE = 2, 16  # of the correlation curves: pixels to either side of the common peak, values a pixel
WORDS = ("sure", "misfit", "doubtful", "no shift", "not found")  # the clearest first


@dataclass(frozen=True)
class Geometry:
    """What `estimate_geometry` found: shift_px per plane (>= 0) and its 95% interval, direction, angle, step, axis.

    word: "sure" (half the interval within 4%); "misfit" (sure, and not what the step and angle given say);
    "doubtful"; "no shift" (the interval holds 0 or nearly: deskewed already, or skewed along the other axis; step and
    angle are NaN where not given); "not found" (all is NaN). told, in a sentence, what was measured and what was taken
    on trust.
    """

    shift_px: float
    interval_px: tuple[float, float]
    direction: int
    angle_deg: float
    step_um: float
    word: str
    told: str
    skew_axis: str = "x"


def estimate_geometry(raw: np.ndarray, pixel_um: float, step_um: float | None = None, angle_deg: float | None = None,
                      seed: int = 0, skew_axis: str | None = None) -> Geometry:
    """Estimate shift, direction, skew axis, and of angle and step the one not given, from a raw stage-scan stack.

    The data hold one number only, the shift cos(angle) step / pixel. With the step it gives the angle, with the angle
    the step; with neither the usual 31.5 degrees are assumed, and told. With both the measured shift is compared.
    Every plane is cross-correlated along the skew axis with the next, in cells of 10 planes x 16 lines; the peak of
    the sum is the shift, and a bootstrap over cells gives its interval. Brightness is evened out first (`_even`), so
    that a few bright objects do not decide; the camera's hot and dead pixels, which stay where they are, are taken off.
    A flat cell on the coverslip does not move as the shear does, fine structure does: so all frequencies that two
    planes share beyond chance count alike (phase correlation; Guizar-Sicairos et al. 2008 for the upsampling), and
    where coarse structure says something else the interval is wider, and may end in "doubtful" (red blood cells).
    Only what reaches from plane to plane is seen to move: steps beyond the PSF end in "not found" or "doubtful".
    Parameters: raw (p,y,x), p the scan axis; pixel_um; step_um and angle_deg where known; seed of the bootstrap;
    skew_axis, "x" or "y", None to try both and take the clearer (told). To know them: points wander along the skew axis
    as you page through the raw planes (x on most lattice light-sheets, y on Zeiss's Lattice Lightsheet 7, 30 degrees);
    step (the stage's, not the distance between sheets) and angle stand in the acquisition settings.
    Raises InputError on another shape, NaN, or an impossible pixel, step, angle or axis.
    """
    check_volume(raw, "estimate_geometry", constant_ok=True)
    plane_shift_px(pixel_um, 1.0 if step_um is None else step_um, USUAL_ANGLE if angle_deg is None else angle_deg)
    tried = [_measure(along_x(raw, axis), pixel_um, step_um, angle_deg, seed, axis)
             for axis in (("x", "y") if skew_axis is None else (skew_axis,))]
    best, *others = sorted(tried, key=lambda found: (WORDS.index(found.word), -found.interval_px[0]))
    return replace(best, told=best.told + "".join(
        f" (along {o.skew_axis}: {o.told if best.word == 'no shift' else o.word})" for o in others))


def _measure(raw: np.ndarray, pixel_um: float, step_um: float | None, angle_deg: float | None, seed: int,
             axis: str) -> Geometry:
    """Measure the shift of a stack skewed along its last axis, and say what follows from it."""
    if raw.shape[0] < 4 or raw.shape[2] < 48 or raw.min() == raw.max():
        return _nothing(f"fewer than 4 planes or 48 voxels along {axis}, or nothing in them", axis)
    shifts, curves, coarse = _correlate(raw)
    if not len(shifts):
        return _nothing("no picture that one plane shares with the next", axis)
    shift = _peak(shifts, curves.sum(0))
    picks = rng(seed, "estimate geometry").integers(0, len(curves), (200, len(curves)))
    guesses = [_peak(shifts, curves[pick].sum(0)) for pick in picks]
    low, high = np.sort(np.quantile(guesses, (0.025, 0.975)) * (1 if shift >= 0 else -1)).tolist()
    unseen = SYSTEMATIC * abs(shift) + BIASED * abs(shift - coarse)
    low, high = low - unseen, high + unseen
    pulled = abs(shift - coarse) > 0.1 * abs(shift)
    # a bootstrap over a few cells knows nothing of its own uncertainty, nor does a peak at the end of the curve
    sure = (len(curves) >= 8 and high - low < max(0.08 * abs(shift), 0.1) and not pulled
            and abs(shift - shifts.mean()) < REACH - 0.1)
    word = "no shift" if low < STILL else "sure" if sure else "doubtful"
    told = (f"{abs(shift):.3f} px per plane along {axis} (95% {low:.3f} to {high:.3f}), "
            f"direction {1 if shift >= 0 else -1:+d}")
    if pulled and word != "no shift":
        told += f"; coarse structure says {abs(coarse):.2f}"
    measured = Geometry(abs(shift), (low, high), 1 if shift >= 0 else -1, math.nan, math.nan, word, told, axis)
    return _explain(measured, pixel_um, step_um, angle_deg)


def _even(plane: np.ndarray, sd: float | None = None) -> np.ndarray:
    """Keep what is as fine as a punctum, every punctum about as bright: smoothly, since clipping would alias."""
    plane = plane.astype(np.float32)
    fine = ndimage.gaussian_filter(plane, 1, truncate=3) - ndimage.gaussian_filter(plane, 3, truncate=3)
    if sd is None:
        return fine
    power = ndimage.gaussian_filter(fine * fine, 3, truncate=3)
    return fine * power / (power + 10 * sd * sd + 1e-12) ** 1.5


def _correlate(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return shifts about the common peak, each cell's correlation there, whitened, and where the plain one peaks.

    Nothing when no peak stands clear.
    """
    n_p, ny, nx = raw.shape
    n, margin, some = 2 ** math.ceil(math.log2(2 * nx)), min(16, nx // 4), raw[:: max(1, n_p // 32)]
    sd = float(np.median([np.median(np.abs(_even(plane))) for plane in some])) / 0.6745
    still = np.median(some, axis=0)
    still -= ndimage.median_filter(still, 3)
    still *= np.abs(still) > 8 * np.median(np.abs(still)) + 1e-9
    rows = np.arange(0, ny, CELL[1])
    cells = np.zeros((-(-n_p // CELL[0]), len(rows), n // 2 + 1), np.complex64)  # cross-spectra along x
    before, power = np.zeros((), np.complex64), np.zeros(n // 2 + 1)
    for p, plane in enumerate(raw):
        plane = _even(plane - still, sd)
        cells[p // CELL[0]] += np.add.reduceat(before * np.fft.rfft(plane, n=n, axis=1), rows)
        # only one of the two pictures is cut at its edges: with both cut alike it would seem to move less
        plane[:, :margin] = plane[:, nx - margin :] = 0
        before = np.fft.rfft(plane, n=n, axis=1).conj()
        power += (before.real**2 + before.imag**2).sum(0)
    cells = cells.reshape(-1, n // 2 + 1)
    common = np.fft.fftshift(np.fft.irfft(cells.sum(0), n=n))
    top = int(common.argmax())
    rest = np.delete(common, slice(max(top - 8, 0), top + 9))
    if common[top] < np.median(rest) + 8 * 1.4826 * np.median(np.abs(rest - np.median(rest))):
        return np.empty(0), np.empty(0), math.nan
    moved = top - n // 2 + np.arange(-REACH * UPSAMPLE, REACH * UPSAMPLE + 1) / UPSAMPLE
    wave = np.exp(2j * np.pi / n * np.outer(np.arange(n // 2 + 1), moved)).astype(np.complex64)
    cross = cells.sum(0)
    # coherence of n_p ny lines that share nothing: 1 / sqrt(n_p ny)
    shared = np.abs(cross) > 4 / math.sqrt(n_p * ny) * power
    white = np.divide(1, power, out=np.zeros_like(power), where=shared).astype(np.float32)
    # the picture moves to small x where the sheet moves to large x
    return -moved, ((cells * white) @ wave).real, _peak(-moved, (cross @ wave).real)


def _peak(at: np.ndarray, curve: np.ndarray) -> float:
    """Return where a curve is highest, refined by a parabola."""
    k = int(np.clip(curve.argmax(), 1, len(at) - 2))
    left, middle, right = curve[k - 1 : k + 2]
    bend = 2 * middle - left - right
    return float(at[k] + (at[1] - at[0]) * (np.clip((right - left) / 2 / bend, -1, 1) if bend > 0 else 0))


def _explain(found: Geometry, pixel_um: float, step_um: float | None, angle_deg: float | None) -> Geometry:
    """Turn the shift into angle or step, and say what it rests on."""
    size, (low, high), word, told = found.shift_px, found.interval_px, found.word, found.told
    if step_um is not None and angle_deg is not None:
        given = abs(plane_shift_px(pixel_um, step_um, angle_deg))
        told += f"; step and angle given say {given:.3f}"
        if low <= given <= high or abs(given - size) <= max(0.05 * given, 0.1):
            word = "doubtful" if word == "no shift" else word
        else:
            word, told = "misfit" if word == "sure" else word, told + ", which does not fit"
    elif step_um is not None and word != "no shift":
        if size * pixel_um >= step_um:
            return _nothing(f"{told}, which is more than the whole step", found.skew_axis)
        angle_deg = math.degrees(math.acos(size * pixel_um / step_um))
        ends = [math.degrees(math.acos(min(1.0, s * pixel_um / step_um))) for s in (high, low)]
        word = word if ends[0] > 0 else "doubtful"  # a sheet along the stage scans nothing
        told += f"; with the step given, angle {angle_deg:.2f} degrees ({ends[0]:.2f} to {ends[1]:.2f})"
    elif word != "no shift":
        assumed = angle_deg is None
        angle_deg = USUAL_ANGLE if assumed else angle_deg
        if angle_deg > 89:
            return _nothing(f"{told}; an upright sheet does not move the picture", found.skew_axis)
        step_um = size * pixel_um / math.cos(math.radians(angle_deg))
        told += f"; step {step_um:.4f} um with the angle {f'assumed ({angle_deg:g} degrees)' if assumed else 'given'}"
        word = "doubtful" if assumed else word
    told += "; already deskewed, or skewed along the other axis" if word == "no shift" else ""
    angle_deg, step_um = (math.nan if n is None else n for n in (angle_deg, step_um))
    return replace(found, angle_deg=angle_deg, step_um=step_um, word=word, told=f"{word}: {told}")


def _nothing(why: str, axis: str) -> Geometry:
    return Geometry(math.nan, (math.nan,) * 2, 1, math.nan, math.nan, "not found", f"not found: {why}", axis)
