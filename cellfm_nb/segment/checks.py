"""Trust without truth: plant puncta of known brightness, split the photons in two, vary every setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng
from cellfm_nb.segment.filters import check_volume
from cellfm_nb.segment.fit import render, start_blobs


def free_places(
    shape: Sequence[int], spacing_um: Sequence[float], n: int, taken_um: np.ndarray, apart_um: Sequence[float],
    seed: int = 0,
) -> np.ndarray:
    """Return up to n random places (n, 3), micrometre, apart from each other, the border, and from what is there.

    Parameters: shape of the volume; spacing_um (z, y, x); taken_um (m, 3), places of known objects; apart_um, half
    axes (z, y, x) of the ellipsoid that must be free; seed. Fewer than n come back where there is no room.
    """
    draw, apart, spacing = rng(seed, "segment", "plant"), np.asarray(apart_um, float), np.asarray(spacing_um, float)
    low, high = apart, (np.array(shape) - 1) * spacing - apart
    if (high <= low).any():
        raise InputError("no room to plant anything", where="shape", got=tuple(shape),
                         expected=f"more than {2 * apart} um", do="take a larger volume")
    taken = list(np.asarray(taken_um, float).reshape(-1, 3) / apart)
    chosen: list[np.ndarray] = []
    for place in draw.uniform(low, high, (50 * n, 3)):
        unit = place / apart
        if len(chosen) == n:
            break
        if not taken or cKDTree(taken).query(unit)[0] > 1:
            chosen.append(place)
            taken.append(unit)
    return np.array(chosen).reshape(-1, 3)


def plant(
    volume: np.ndarray, places_um: np.ndarray, peak: float, spacing_um: Sequence[float], sigma_um: Sequence[float]
) -> np.ndarray:
    """Return the normalised volume with puncta of the PSF's shape added.

    Parameters: volume (z, y, x) float32, noise 1; places_um (n, 3); peak, height in units of the noise; spacing_um,
    sigma_um (z, y, x) micrometre. The light's own shot noise is left out: it matters where peaks outshine the
    background.
    """
    v, spacing = check_volume(volume, spacing_um)
    blobs = start_blobs(np.asarray(places_um, float) / spacing, np.full(len(places_um), float(peak)), 0.0)
    return v + render(blobs, v.shape, spacing, np.asarray(sigma_um, float))


def recovered(found_um: np.ndarray, planted_um: np.ndarray, radius_um: Sequence[float]) -> np.ndarray:
    """Return for each planted punctum whether something was found within the half axes radius_um (z, y, x)."""
    radius = np.asarray(radius_um, float)
    if not len(found_um) or not len(planted_um):
        return np.zeros(len(planted_um), bool)
    return cKDTree(np.asarray(found_um) / radius).query(np.asarray(planted_um) / radius)[0] <= 1


def split_photons(
    counts: np.ndarray, gain: float, offset: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split a frame into two of half the light, with independent shot noise.

    Parameters: counts (z, y, x); gain, counts a photon; offset, counts without light (`curate.fit_noise` gives both);
    seed. Returns: two float32 volumes of photons that add up to the frame's. Raises InputError where gain is not > 0.

    Each photon goes to one of the halves by a coin: a Poisson number thinned so gives two independent Poisson numbers
    (read noise is split with the light, so that the halves are a little too quiet where it dominates).
    """
    if not gain > 0:
        raise InputError("photons cannot be counted", where="gain", got=gain, expected="counts a photon > 0",
                         do="use the gain of a raw movie; equal noise everywhere has none")
    photons = np.rint(np.maximum((np.asarray(counts, float) - offset) / gain, 0)).astype(np.int64)
    half = rng(seed, "segment", "thin").binomial(photons, 0.5)
    return half.astype(np.float32), (photons - half).astype(np.float32)


def vary(
    count: Callable[..., int], settings: Mapping[str, Any], by: float = 0.1
) -> pd.DataFrame:
    """Return how a count changes when each setting alone goes down and up by a share.

    Parameters: count, called with all settings by name; settings, numbers or sequences of numbers (scaled as a whole).
    Returns: one row a setting: lower, as_is, higher.
    """
    base = count(**settings)
    rows = {}
    for name, value in settings.items():
        low, high = (np.multiply(value, factor).tolist() for factor in (1 - by, 1 + by))
        rows[name] = {"lower": count(**{**settings, name: low}), "as_is": base,
                      "higher": count(**{**settings, name: high})}
    return pd.DataFrame(rows).T
