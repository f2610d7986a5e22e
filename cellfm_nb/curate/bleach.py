"""Bleaching: how fast a movie fades, whether that can be told at all, and its correction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage, optimize

from cellfm_nb.curate.background import background_level, check_volume
from cellfm_nb.curate.slabs import to_dtype
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, write_frames
from cellfm_nb.progress import track

BAND_UM = (0.1, 0.2)  # finer is noise; what is wider is background, which need not fade
LIFT = 8.0  # after three half-lives brightening shows noise, and is not carried further
FADES = 0.5  # an offset is fitted only where more than this share of the light fades


@dataclass(frozen=True)
class Bleaching:
    """A fade fitted to a movie: light(t) = amplitude exp(-ln 2 t / half_life_s) + offset.

    light, per frame, measured; curve, per frame, fitted (constant where no fading can be told); half_life_s and its
    standard error sd_s are NaN, and significant is False, where it can't; told, in a sentence.
    """

    half_life_s: float
    sd_s: float
    amplitude: float
    offset: float
    significant: bool
    light: np.ndarray
    curve: np.ndarray
    told: str


def frame_light(volume: np.ndarray, spacing_um: tuple[float, float, float]) -> float:
    """Return the light of the puncta of a frame, in its units: a root mean cube without noise in it.

    Each plane keeps what is as fine as puncta. Three planes multiplied hold the picture they share, cubed, while their
    noise is independent and averages out, however faint the picture (of one plane: lines). The cube, because the rims
    of cells, which do not fade, are as dark on one side as they are bright on the other, and cancel. Threshold-free:
    counting voxels above a threshold loses more and more of them as a movie fades, and finds it fading too fast.
    Parameters: volume (z,y,x); spacing_um. Below 0 is possible, where noise is all there is.
    """
    y = check_volume(volume, "frame_light", constant_ok=True).astype(np.float32)
    fine, wide = ([0, b / spacing_um[1] if len(y) > 2 else 0, b / spacing_um[2]] for b in BAND_UM)
    y = ndimage.gaussian_filter(y, fine, truncate=3) - ndimage.gaussian_filter(y, wide, truncate=3)
    rim = [min(math.ceil(2 * w), n // 4) for w, n in zip(wide, y.shape, strict=True)]  # the mirrored edge has a kink
    y = y[:, rim[1] : y.shape[1] - rim[1], rim[2] : y.shape[2] - rim[2]]
    lines = np.moveaxis(y, 0 if len(y) > 2 else 1, 0)
    shared = lines[:-2] * lines[1:-1] * lines[2:]
    return float(np.cbrt(np.mean(shared, dtype=np.float64))) if shared.size else 0.0


def fit_bleaching(light: np.ndarray, dt_s: float | None = 1.0) -> Bleaching:
    """Fit a mono-exponential, with an offset where the data ask for one, to the light of every frame.

    Parameters: light, one number per frame (`frame_light`; NaN where a frame can't be used); dt_s, None when it is not
    known: the half-life is then told in frames, and half_life_s is NaN.
    Returns: Bleaching. A constant, an exponential and one with offset are fitted robustly; the more complicated is
    taken where Schwarz's criterion gains 6 by it (strong evidence), and the rate is three standard errors from 0; an
    offset only where the larger part fades: else blinking that sets in, or a merger, looks like a quick, small fade.
    Raises InputError on fewer than 4 usable frames.
    """
    unit, step = ("frames", 1.0) if dt_s is None else ("s", dt_s)
    light = np.asarray(light, float)
    use = np.isfinite(light)
    if use.sum() < 4:
        raise InputError("Too few frames to tell bleaching.", where="fit_bleaching", got=f"{int(use.sum())} usable",
                         expected="at least 4", do="Give a longer movie.")
    span = (len(light) - 1) * step
    x, scale = np.arange(len(light)) * step / span, max(float(np.abs(light[use]).max()), 1e-30)
    power = (light / scale) ** 3  # where the noise is even, and below 0 as often as above
    fits = [_fit(x[use], power[use], start) for start in ((0.7,), (0.9, 0.5), (0.9, 1.0, 0.05))]
    best = 0
    for i in (1, 2):
        theta, sd, criterion = fits[i]
        larger = i == 1 or theta[0] > FADES * (theta[0] + theta[2])
        if criterion < fits[best][2] - 6 and theta[1] > 3 * sd[1] and larger:
            best = i
    theta, sd, _ = fits[best]
    curve = scale * _model(theta, x)
    if best == 0:
        told = "no bleaching can be told: a constant light fits as well"
        return Bleaching(math.nan, math.nan, 0.0, float(curve[0]), False, light, curve, told)
    half, offset = math.log(2) / theta[1] * span, scale * float(theta[2]) if best == 2 else 0.0
    error = half * sd[1] / theta[1]
    told = f"half-life {half:.3g} +- {error:.2g} {unit}"
    told += f", {100 * offset / curve[0]:.0f}% does not fade" * (best == 2)
    if dt_s is None:
        half = error = math.nan
    return Bleaching(half, error, scale * float(theta[0]), offset, True, light, curve, told)


def _model(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """theta: (constant), (amplitude, rate) or (amplitude, rate, offset)."""
    if len(theta) == 1:
        return np.full(len(x), theta[0])
    return theta[0] * np.exp(-theta[1] * x) + (theta[2] if len(theta) == 3 else 0)


def _fit(x: np.ndarray, power: np.ndarray, start: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (theta, its standard errors, Schwarz's criterion) of a robust fit of the light to its cube."""
    rough = np.diff(power, 2)
    noise = max(1.4826 * float(np.median(np.abs(rough - np.median(rough)))) / math.sqrt(6), 1e-6)
    found = optimize.least_squares(lambda theta: (_model(theta, x) ** 3 - power) / noise, start, loss="cauchy",
                                   bounds=([0, -5, 0][: len(start)], [10, 50, 10][: len(start)]))
    n = len(x)
    spread = max(2 * found.cost / max(n - len(start), 1), 1e-12)  # the noise as the fit sees it
    sd = np.sqrt(np.diag(np.linalg.pinv(found.jac.T @ found.jac)) * spread)
    return found.x, sd, n * math.log(max(2 * found.cost / n, 1e-12)) + len(start) * math.log(n)


def fit_movie_bleaching(movie: Movie, c: int = 0) -> Bleaching:
    """Fit the fading of a channel of a movie; frames that are constant or not finite are passed over."""
    light = []
    for t in range(movie.n_frames):
        try:
            light.append(frame_light(check_volume(movie.frame(t, c), f"frame {t}"), movie.spacing_um))
        except InputError:
            light.append(math.nan)
    return fit_bleaching(np.array(light), movie.dt_s)


def correct_bleaching(frames: Iterable[np.ndarray], bleaching: Bleaching, method: str = "ratio"
                      ) -> Iterator[np.ndarray]:
    """Yield the frames of a movie, float32, as bright as its first.

    Parameters: frames (z,y,x), all of them, in order; bleaching, the fit (not significant: frames pass unchanged);
    method "ratio": what is above the background level grows by the ratio of the fitted curve (the noise with it, and
    the background's own level is brought to that of the first frame), at most by LIFT; "histogram": grey values are
    exchanged so that every frame has the first frame's histogram (Miura 2020, F1000Research 9:1494), for movies whose
    frames show the same amount of structure.
    Raises InputError on another method or on NaN.
    """
    if method not in ("ratio", "histogram"):
        raise InputError("There is no such bleaching correction.", got=repr(method), expected="ratio or histogram",
                         do="Choose one of them.")
    first_level, reference = None, None
    for t, frame in enumerate(frames):
        frame = check_volume(frame, f"frame {t}", constant_ok=True)
        out = frame.astype(np.float32)
        if bleaching.significant and out.min() < out.max():
            if method == "histogram":
                grey = np.sort(out.ravel()[:: max(1, out.size // 2**20) | 1])
                grey = grey[np.linspace(0, len(grey) - 1, 4096).astype(int)]
                reference = grey if reference is None else reference
                out = np.interp(out, grey, reference).astype(np.float32)
            else:
                level = background_level(frame)
                first_level = level if first_level is None else first_level
                lift = min(bleaching.curve[0] / max(bleaching.curve[t], 1e-30), LIFT)
                out = np.float32(first_level) + (out - np.float32(level)) * np.float32(lift)
        yield out


def write_corrected(out_path: str | Path, movie_path: str | Path, method: str = "ratio") -> None:
    """Correct every channel of a movie for its own bleaching, and write it as OME-Zarr in its own number type.

    Parameters: out_path, the .ome.zarr to write; movie_path, any file `Movie.open` reads; method as in
    `correct_bleaching`. A channel of which no fading can be told passes unchanged; the notes say what was found.
    """
    movie = Movie.open(movie_path)
    fits = [fit_movie_bleaching(movie, c) for c in range(movie.n_channels)]
    channels = [correct_bleaching((movie.frame(t, c) for t in range(movie.n_frames)), fit, method)
                for c, fit in enumerate(fits)]
    frames = (np.stack([to_dtype(v, movie.dtype) for v in volumes]) for volumes in zip(*channels, strict=True))
    notes = [f"bleaching of channel {c}, {method} correction: {fit.told}"
             + f"; brightened {LIFT:g} times at most" * bool(fit.curve[-1] * LIFT < fit.curve[0] and method == "ratio")
             for c, fit in enumerate(fits)]
    write_frames(out_path, track(frames, "bleaching", total=movie.n_frames), movie.shape, movie.dtype,
                 movie.spacing_um, movie.dt_s, movie.name, notes=[*movie.notes, *notes],
                 channel_names=movie.stated_channels)
