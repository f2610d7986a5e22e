"""Judge every frame of a movie: measures with a definition, a rule, a verdict with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage, stats
from skimage.registration import phase_cross_correlation

from cellfm_nb.curate.background import background_spread, check_volume
from cellfm_nb.curate.bleach import frame_light
from cellfm_nb.curate.crops import signal_mask
from cellfm_nb.curate.decisions import apply_decisions
from cellfm_nb.curate.noise import NoiseModel, fit_movie_noise
from cellfm_nb.curate.normalize import normalize
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie
from cellfm_nb.progress import track
from cellfm_nb.provenance import outside_digest

COLUMNS = ["frame", "mean", "light", "p1", "p50", "p999", "saturation", "snr", "fine_light", "signal_fraction", "focus",
           "drift_px", "empty_planes", "dropped", "verdict", "by", "reason"]
# measure: change against the movie's own trend from which a frame is doubtful, from which it is out; rises count too
LIMITS = {"snr": (0.2, 0.4, False), "focus": (0.1, 0.18, False), "light": (0.15, 0.3, True)}
NOTHING = 3.1  # the snr of a volume that holds nothing but noise: the 99.9 percentile of N(0, 1)
SATURATED = (1e-4, 1e-3)  # share of voxels at the ceiling: doubtful, out
EMPTY = 0.2  # share of planes without light, above the movie's own: doubtful from the first plane, out from here


def quality_table(movie: Movie, noise: NoiseModel | None = None, c: int = 0, quiet: bool = False) -> pd.DataFrame:
    """Measure and judge every frame of a channel.

    Parameters: movie; noise, from `fit_noise` (None: fitted here); c, channel; quiet, show no progress.
    Returns: DataFrame, one row per frame:
      frame; mean, p1, p50, p999 (percentiles), in the movie's units;
      light, mean above the movie's darkest background, in units of that background's noise;
      saturation, share of voxels at the frame's own ceiling;
      snr, (99.9 percentile - background) / background noise, after smoothing by one voxel: 3.1 where there is nothing;
      fine_light, what is as fine as puncta, without its noise (`bleach.frame_light`), in the movie's units;
      signal_fraction, share of voxels more than 4 s.d. above the background after smoothing by one voxel;
      focus, 99.9 percentile of detail of 0.1-0.2 um over that detail's noise: 2.9 where there is nothing;
      drift_px, shift (y,x) of the max projection against the frame before, by phase correlation;
      empty_planes, share of planes without light (see `empty_planes`);
      dropped, "" | "repeated" (a copy of the frame before) | "missing" (constant or unreadable: nothing recorded);
      verdict "accept" | "reject" | "unsure", by "rule", reason in words.
    The rule: constant, unreadable, not finite, saturated or repeated frames are out, and those that miss planes; so
    is a frame that leaves the movie's own trend (a robust line through the logarithm, so bleaching is none) by 8
    robust s.d. and a stated share.
    """
    try:
        noise = noise or fit_movie_noise(movie, c)
    except InputError:  # no frame is usable: the table says so, frame by frame
        noise = NoiseModel(0.0, 1.0, 0.0, "none")
    noise_sd = max(float(noise.variance(noise.offset)), 1e-12) ** 0.5  # of the darkest background
    rows, before, projection = [], None, None
    for t in range(movie.n_frames) if quiet else track(range(movie.n_frames), "quality"):
        row = dict.fromkeys(COLUMNS, np.nan) | {"frame": t, "dropped": "", "by": "rule", "verdict": "accept",
                                                "reason": ""}
        volume = None
        try:
            volume = movie.frame(t, c)
            if volume.min() == volume.max():
                row["dropped"] = "missing"
            check_volume(volume, f"frame {t}")
            row["mean"] = float(volume.mean(dtype=np.float64))
            row["light"] = (row["mean"] - noise.offset) / noise_sd
            row["p1"], row["p50"], row["p999"] = (float(q) for q in np.percentile(volume, [1, 50, 99.9]))
            row["saturation"] = (np.count_nonzero(volume == volume.max()) - 1) / volume.size
            row["empty_planes"] = empty_planes(volume, noise_sd)
            y = normalize(volume, noise, movie.spacing_um)
            smooth = ndimage.gaussian_filter(y, 1.0, truncate=3.0)
            inside = y != 0  # the fill of deskewed corners is 0 exactly
            centre, sd = background_spread(smooth[inside])
            row["snr"] = (float(np.percentile(smooth[inside], 99.9)) - centre) / max(sd, 1e-6)
            row["fine_light"] = frame_light(volume, movie.spacing_um)
            row["signal_fraction"] = float(signal_mask(y).mean())
            row["focus"] = focus(y, movie.spacing_um)
            last, projection = projection, ndimage.gaussian_filter(np.clip(y.max(0), 0, 10), 1)
            row["drift_px"] = drift_px(last, projection) if last is not None else 0.0
            if before is not None and np.array_equal(before, volume):
                row |= {"dropped": "repeated", "verdict": "reject", "reason": "a copy of the frame before"}
        except InputError as error:
            row |= {"dropped": row["dropped"] or ("missing" if volume is None else ""), "verdict": "reject",
                    "reason": error.what.rstrip(".").lower() + f": {error.got}"}
        rows.append(row)
        before = volume
    return judge(pd.DataFrame(rows, columns=COLUMNS))


def empty_planes(volume: np.ndarray, noise_sd: float) -> float:
    """Return the share of planes (z) without light: constant, or fallen away from the last plane with light.

    Fallen away: the plane's median lies more than 3 noise s.d. of a voxel beneath it, seen from above or from below.
    A median is known far better than that, and out-of-focus light changes far less from one plane to the next.
    """
    level = np.median(volume.reshape(len(volume), -1), axis=1)
    empty = volume.min((1, 2)) == volume.max((1, 2))
    constant = empty.copy()
    for order in (range(len(level)), reversed(range(len(level)))):
        lit = -np.inf
        for z in order:
            if level[z] < lit - 3 * noise_sd:
                empty[z] = True
            elif not constant[z]:
                lit = level[z]
    return float(empty.mean())


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the rule's verdicts and reasons (see `quality_table`); rejected rows stay rejected."""
    table = table.copy()
    for i in table.index[table.verdict == "accept"]:
        if (share := table.saturation[i]) > SATURATED[0]:
            _blame(table, i, share > SATURATED[1], f"{100 * share:.2g}% of the voxels saturated")
    usual = table.empty_planes[table.verdict != "reject"].median()  # a deskewed stack has empty corners in every frame
    for i in table.index[table.verdict != "reject"]:
        if (more := table.empty_planes[i] - usual) > 0:
            _blame(table, i, more > EMPTY, f"{100 * table.empty_planes[i]:.3g}% of the planes empty")
    good = table.index[table.verdict != "reject"]
    if len(good) < 5:  # a trend and its scatter need five points
        return table
    for name, (doubtful, out, both) in LIMITS.items():
        values = table.loc[good, name].to_numpy(float)
        # ratios for what is positive; light counts from a dark level that is itself uncertain
        values = values / max(np.median(np.abs(values)), 1) if name == "light" else np.log(np.maximum(values, 1e-9))
        residual, scale = off_trend(table.frame[good].to_numpy(float), values)
        for i, r in zip(good, residual, strict=True):
            change = r if name == "light" else np.expm1(r)
            if change < 0 or both:
                for share, sds, is_out in ((out, 8, True), (doubtful, 5, False)):
                    if abs(r) > sds * scale and abs(change) > share:
                        how = ("falls" if r < 0 else "rises") if name == "light" else f"{100 * change:+.0f}%"
                        _blame(table, i, is_out, f"{name} {how} off the movie's trend")
                        break
    drift = table.drift_px[good]
    far = drift.median() + 8 * max(1.4826 * (drift - drift.median()).abs().median(), 0.5)
    seen = table.index[table.drift_px.notna()]
    for i in good[drift > far]:
        before = seen[seen < i]
        if len(before) and table.verdict[before[-1]] != "reject":  # a frame out of focus is no witness of a jump
            _blame(table, i, False, f"jumps by {drift[i]:.1f} px")
    return table


def off_trend(t: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the residuals from a robust line (Theil-Sen) and their robust s.d. (MAD, at least 0.02)."""
    slope, intercept, *_ = stats.theilslopes(values, t)
    residual = values - (intercept + slope * t)
    return residual, max(1.4826 * float(np.median(np.abs(residual - np.median(residual)))), 0.02)


def _blame(table: pd.DataFrame, i: int, out: bool, reason: str) -> None:
    if out or table.loc[i, "verdict"] == "accept":
        table.loc[i, "verdict"] = "reject" if out else "unsure"
    table.loc[i, "reason"] = "; ".join(filter(None, [table.loc[i, "reason"], reason]))


def focus(normalized: np.ndarray, spacing_um: Sequence[float]) -> float:
    """Return the sharpness of a normalised volume (z,y,x): its strongest fine detail (0.1-0.2 um, in the plane)."""
    fine, coarse = (ndimage.gaussian_filter(normalized, (0, *(um / s for s in spacing_um[1:])), truncate=3.0)
                    for um in (0.1, 0.2))
    detail = (fine - coarse)[normalized != 0]
    top = int(0.999 * detail.size)
    return float(np.partition(detail, top)[top]) / max(background_spread(detail)[1], 1e-6)


def drift_px(before: np.ndarray, after: np.ndarray) -> float:
    """Return how far (voxels) one projection (y,x) has moved against another."""
    shift, *_ = phase_cross_correlation(before, after, upsample_factor=10, normalization=None)
    return float(np.hypot(*shift))


def accepted(table: pd.DataFrame) -> list[int]:
    """Return the frames to learn from: accepted ones, or where there are none, the doubtful ones."""
    for verdict in ("accept", "unsure"):
        if (table.verdict == verdict).any():
            return table.frame[table.verdict == verdict].astype(int).tolist()
    raise InputError("Every frame of this movie was rejected.", where="curate/quality.csv",
                     got="; ".join(sorted(set(table.reason)))[:300], expected="at least one usable frame",
                     do="Look at the reasons; choose another channel or movie.")


def read_quality(path: Path) -> pd.DataFrame:
    """Read a quality table: measures are numbers (NaN where a frame has none), words are words, never NaN."""
    numbers = set(COLUMNS) - {"dropped", "verdict", "by", "reason"}
    return pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in numbers})


def write_quality(path: Path, movie_path: Path, c: int = 0, decisions: Path | None = None) -> None:
    """Write the quality table of a movie as CSV (a workspace writer).

    Parameters: path to write; movie_path; c, channel; decisions, the readers' decisions (CSV, there or not yet), put
    over the rule's verdicts. This is the headless twin of the gallery.
    """
    table = quality_table(Movie.open(movie_path), c=c)
    if decisions is not None and Path(decisions).exists():
        table = apply_decisions(table, decisions, movie=outside_digest(Path(movie_path)), channel=c)
    table.to_csv(path, index=False)
