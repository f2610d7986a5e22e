"""Finding puncta in simulated movies, one setting for all of ours, beside trackpy and LoG maxima tuned in their favour.

Ours judges a frame with those around it (`segment.detect_movie`, the first LENGTH frames of a movie); beside it stands
what one frame alone gives. A peer sees the camera's counts, as its users give them, and its score threshold is the best
one by truth on other frames of the same movie. Voronoi-Otsu has none to tune, and gets our normalised frames, without
which it finds nothing.
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
from cellfm_nb.segment import detect, detect_movie, detect_with, segment_instances
from cellfm_nb.simulate import Scene, scenario, scenario_optics

SEEDS = [201, 202, 203]
FRAMES, TUNING = (0, 8, 16), (4, 12)  # scored; used to tune the peers
LENGTH = 24  # frames of a movie that are looked at
SPACING_UM = scenario("sparse").spacing_um
PSF, CAMERA = scenario_optics()
FWHM_UM = tuple(2.355 * s for s in PSF.sigma_um)  # a found place may be this far from the true one
PEERS = ("trackpy", "log")
F1 = {"sparse": {1.2: 0.75, 2.0: 0.91, 4.0: 0.98, 8.0: 0.995}, "dense": {1.2: 0.52, 2.0: 0.79, 4.0: 0.93, 8.0: 0.98}}
AP50 = {"sparse": {2.0: 0.42, 4.0: 0.80}, "dense": {4.0: 0.68}}
POSITION = ["z_um", "y_um", "x_um"]


def rows() -> Iterator[Row]:
    """Score sparse and dense movies at four signal-to-noise ratios, then time one frame."""
    for density in ("sparse", "dense"):
        for snr in (1.2, 2.0, 4.0, 8.0):
            ours, overlap, peers = [], [], {name: [] for name in ("one frame", *PEERS, "voronoi_otsu")}
            for seed in SEEDS:
                scene = Scene(scenario(density, snr), PSF, CAMERA, seed)
                taken = {t: scene.render(t) for t in (*FRAMES, *TUNING)}
                counts = {t: frame for t, (frame, _) in taken.items()}
                volumes = {t: normalize(frame, fit_noise(frame), SPACING_UM) for t, frame in counts.items()}
                found = in_movie(scene, volumes)
                ours.append(f1(found, scene))
                overlap.append(score_instances(
                    (segment_instances(volumes[t], found[t], SPACING_UM, PSF.sigma_um), taken[t][1])
                    for t in FRAMES).ap[0.5])
                single = {t: detect(volumes[t], SPACING_UM, PSF.sigma_um) for t in FRAMES}
                peers["one frame"].append(f1(single, scene))
                for name in (*PEERS, "voronoi_otsu"):
                    peers[name].append(tuned(name, scene, volumes if name == "voronoi_otsu" else counts))
            case = f"{density} SNR {snr:g}"
            beside = {n: fmean(s) for n, s in peers.items()}
            yield Row(case, "f1", "higher", fmean(ours), beside, F1[density][snr], seeds=SEEDS)
            yield Row(case, "ap50", "higher", fmean(overlap), target=AP50[density].get(snr), seeds=SEEDS)
    volume, four = volumes[0], [volumes[0]] * 4
    calls = {"ours": lambda: list(detect_movie(four, SPACING_UM, PSF.sigma_um)),
             "one frame": lambda: detect(volume, SPACING_UM, PSF.sigma_um)}
    calls |= {name: lambda name=name: detect_with(name, volume, SPACING_UM, PSF.sigma_um) for name in PEERS}
    spent = alternate(calls, repeats=3)
    yield Row("dense SNR 8", "seconds per frame", "lower", spent.pop("ours") / 4, spent, seeds=SEEDS[-1:])


def in_movie(scene: Scene, volumes: dict[int, np.ndarray]) -> dict[int, pd.DataFrame]:
    """Return ours for the scored frames, found in the movie's first LENGTH frames."""
    def frames() -> Iterator[np.ndarray]:
        for t in range(LENGTH):
            if t not in volumes:
                frame = scene.render(t)[0]
            yield volumes[t] if t in volumes else normalize(frame, fit_noise(frame), SPACING_UM)

    tables = detect_movie(frames(), SPACING_UM, PSF.sigma_um)
    return {t: table for t, table in enumerate(tables) if t in FRAMES}


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
