"""Finding puncta in simulated movies, one setting for all of ours, beside trackpy and LoG maxima tuned in their favour.

A peer sees the camera's counts, as its users give them, and its score threshold is the best one by truth on other
frames of the same movie. Voronoi-Otsu has none to tune, and gets our normalised frames, without which it finds nothing.
Simulated scenarios `sparse` and `dense` (see `simulate.scenarios`): nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row, alternate
from cellfm_nb.curate import fit_noise, normalize
from cellfm_nb.score.detection import score_detection
from cellfm_nb.score.instances import score_instances
from cellfm_nb.segment import detect, detect_with, segment_instances
from cellfm_nb.simulate import Scene, scenario, scenario_optics

SEEDS = [201, 202, 203]
FRAMES, TUNING = (0, 8, 16), (4, 12)  # scored; used to tune the peers
SPACING_UM = scenario("sparse").spacing_um
PSF, CAMERA = scenario_optics()
FWHM_UM = tuple(2.355 * s for s in PSF.sigma_um)  # a found place may be this far from the true one
PEERS = ("trackpy", "log")
POSITION = ["z_um", "y_um", "x_um"]


def rows() -> Iterator[Row]:
    """Score sparse and dense movies at four signal-to-noise ratios, then time one frame."""
    for density in ("sparse", "dense"):
        for snr in (1.2, 2.0, 4.0, 8.0):
            ours, overlap, peers = [], [], {name: [] for name in (*PEERS, "voronoi_otsu")}
            for seed in SEEDS:
                scene = Scene(scenario(density, snr), PSF, CAMERA, seed)
                taken = {t: scene.render(t) for t in (*FRAMES, *TUNING)}
                counts = {t: frame for t, (frame, _) in taken.items()}
                volumes = {t: normalize(frame, fit_noise(frame), SPACING_UM) for t, frame in counts.items()}
                found = {t: detect(volumes[t], SPACING_UM, PSF.sigma_um) for t in FRAMES}
                ours.append(f1(found, scene))
                overlap.append(score_instances(
                    (segment_instances(volumes[t], found[t], SPACING_UM, PSF.sigma_um), taken[t][1])
                    for t in FRAMES).ap[0.5])
                for name, scores in peers.items():
                    scores.append(tuned(name, scene, volumes if name == "voronoi_otsu" else counts))
            case = f"{density} SNR {snr:g}"
            yield Row(case, "f1", "higher", fmean(ours), {n: fmean(s) for n, s in peers.items()}, seeds=SEEDS)
            yield Row(case, "ap50", "higher", fmean(overlap), seeds=SEEDS)
    volume = volumes[0]
    calls = {"ours": lambda: detect(volume, SPACING_UM, PSF.sigma_um)}
    calls |= {name: lambda name=name: detect_with(name, volume, SPACING_UM, PSF.sigma_um) for name in PEERS}
    spent = alternate(calls, repeats=3)
    yield Row("dense SNR 8", "seconds per frame", "lower", spent.pop("ours"), spent, seeds=SEEDS[-1:])


def truth(scene: Scene, t: int) -> np.ndarray:
    table = scene.truth.positions
    return table.loc[(table["frame"] == t) & table["visible"], POSITION].to_numpy()


def f1(found: dict[int, pd.DataFrame], scene: Scene) -> float:
    pairs = ((table[POSITION].to_numpy(), truth(scene, t)) for t, table in found.items())
    return score_detection(pairs, FWHM_UM).f1


def tuned(name: str, scene: Scene, volumes: dict[int, np.ndarray]) -> float:
    """Return a peer's F1 at the score threshold that is best on the tuning frames."""
    tables = {t: detect_with(name, volume, SPACING_UM, PSF.sigma_um) for t, volume in volumes.items()}
    cut = best_cut({t: tables[t] for t in TUNING}, scene)
    return f1({t: tables[t][tables[t]["score"] >= cut] for t in FRAMES}, scene)


def best_cut(tables: dict[int, pd.DataFrame], scene: Scene) -> float:
    """Return the threshold with the best F1 by truth, among a hundred quantiles of the best-scored finds."""
    scores = np.concatenate([table["score"].to_numpy()[:1000] for table in tables.values()])
    cuts = np.unique(np.quantile(scores, np.linspace(0, 0.999, 100))) if len(scores) else np.zeros(1)
    return float(max(cuts, key=lambda cut: f1({t: x[x["score"] >= cut] for t, x in tables.items()}, scene)))
