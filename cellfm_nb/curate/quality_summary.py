"""One line per movie and channel: what was recorded, how good it is, how fast it fades, and which comes first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cellfm_nb.curate.bleach import fit_bleaching
from cellfm_nb.curate.quality import NOTHING

SUMMARY = ["rank", "movie", "channel", "score", "frames", "accepted", "unsure", "rejected", "repeated", "missing",
           "snr", "saturation", "focus", "drift_px", "empty_planes", "half_life_s", "half_life_sd_s"]


def movie_quality(table: pd.DataFrame, dt_s: float | None = None, movie: str = "",
                  channel: int = 0) -> dict[str, object]:
    """Summarise the quality table of one channel of a movie.

    Parameters: table, from `quality_table` (with or without readers' verdicts); dt_s, None when unknown (there is then
    no half-life in seconds); movie, its name; channel.
    Returns: {movie, channel; frames, accepted, unsure, rejected (counts); repeated, missing (dropped frames);
      snr, focus, drift_px: medians over frames not rejected, as defined in `quality_table`: snr is the 99.9 percentile
      above the background over the background's noise, after smoothing by one voxel, 3.1 where there is nothing;
      saturation, the worst frame's share of voxels; empty_planes, the mean share of planes without light;
      half_life_s and its standard error: of the fine structure's light, NaN where no fading can be told;
      score, share of accepted frames x log2(snr / 3.1): 0 is nothing to see or nothing to use, and every doubling of
      the signal counts one}.
    """
    good = table[table.verdict != "reject"]
    snr = float(good.snr.median()) if len(good) else np.nan
    life, sd = half_life(table.fine_light.where(table.verdict != "reject").to_numpy(float), dt_s)
    count = table.verdict.value_counts()
    return {"movie": movie, "channel": channel, "frames": len(table), "accepted": int(count.get("accept", 0)),
            "unsure": int(count.get("unsure", 0)), "rejected": int(count.get("reject", 0)),
            "repeated": int((table.dropped == "repeated").sum()), "missing": int((table.dropped == "missing").sum()),
            "snr": snr, "saturation": float(table.saturation.max()), "focus": float(good.focus.median()),
            "drift_px": float(good.drift_px.median()), "empty_planes": float(table.empty_planes.mean()),
            "half_life_s": life, "half_life_sd_s": sd,
            "score": int(count.get("accept", 0)) / max(len(table), 1) * max(np.log2(max(snr, NOTHING) / NOTHING), 0.0)
            if len(good) else 0.0}


def half_life(light: np.ndarray, dt_s: float | None = 1.0) -> tuple[float, float]:
    """Return the half-life (s) of the light, one number per frame (NaN: left out), and its standard error.

    See `fit_bleaching`; (NaN, NaN) where it tells no fading, or fewer than eight frames are there: frames near in time
    share their blinking, and a few seem to fade by chance.
    """
    if np.isfinite(light).sum() < 8:
        return np.nan, np.nan
    fit = fit_bleaching(light, dt_s)
    return fit.half_life_s, fit.sd_s


def summarise(rows: list[Mapping[str, object]]) -> pd.DataFrame:
    """Rank movies and channels: 1 has the highest score of `movie_quality`; equal scores go by name and channel."""
    table = pd.DataFrame(rows, columns=SUMMARY).sort_values(["score", "movie", "channel"],
                                                            ascending=[False, True, True], ignore_index=True)
    table["rank"] = np.arange(1, len(table) + 1)
    return table


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Return a quality table with the best frames first: accepted, unsure, rejected, each by falling snr."""
    order = table.verdict.map({"accept": 0, "unsure": 1, "reject": 2})
    return table.assign(_order=order).sort_values(["_order", "snr", "frame"], ascending=[True, False, True],
                                                  ignore_index=True).drop(columns="_order")
