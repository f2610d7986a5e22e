"""Finding puncta in simulated movies, one setting for all of ours, beside the named peers tuned in their favour.

Ours judges a frame with those around it (`segment.detect_movie`, the first LENGTH frames of a movie); beside it stands
what one frame alone gives, and the 95% interval over movies. A peer sees the camera's counts, as its users give them,
and its score threshold is the best one by truth on other frames of the same movie. Voronoi-Otsu has none to tune, and
gets our normalised frames, without which it finds nothing. Times are CPU seconds of the finding alone.
Simulated scenarios `sparse` and `dense` (see `simulate.scenarios`): nothing is fetched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import fmean

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row, extra_mib
from cellfm_nb.curate import fit_noise, normalize
from cellfm_nb.score.detection import DetectionScore, score_detection
from cellfm_nb.score.instances import score_instances
from cellfm_nb.score.tracks import mean_and_interval
from cellfm_nb.segment import PEERS, detect, detect_movie, detect_with, segment_instances
from cellfm_nb.simulate import Scene, scenario, scenario_optics

SEEDS = [201, 202, 203]
FRAMES, TUNING = (0, 6, 12, 18), (3, 15)  # scored; used to tune the peers
LENGTH = 24  # frames of a movie that are looked at
SPACING_UM = scenario("sparse").spacing_um
PSF, CAMERA = scenario_optics()
FWHM_UM = tuple(2.355 * s for s in PSF.sigma_um)  # a found place may be this far from the true one
F1 = {"sparse": {1.2: 0.75, 2.0: 0.91, 4.0: 0.98, 8.0: 0.995}, "dense": {1.2: 0.52, 2.0: 0.79, 4.0: 0.93, 8.0: 0.98}}
AP50 = {"sparse": {2.0: 0.42, 4.0: 0.80}, "dense": {4.0: 0.68}}
POSITION = ["z_um", "y_um", "x_um"]


def rows() -> Iterator[Row]:
    """Score sparse and dense movies at four signal-to-noise ratios; then time and memory of one movie."""
    for density in ("sparse", "dense"):
        for snr in (1.2, 2.0, 4.0, 8.0):
            yield from case(density, snr)
    counts, volumes = movie(Scene(scenario("dense", 8.0), PSF, CAMERA, SEEDS[-1]))
    ours = partial(whole, volumes)
    spent = cpu_seconds({"ours": ours, "one frame": lambda: detect(volumes[0], SPACING_UM, PSF.sigma_um)}
                        | {n: partial(detect_with, n, counts[0], SPACING_UM, PSF.sigma_um) for n in PEERS})
    per_frame = spent.pop("ours") / LENGTH
    yield Row("dense SNR 8", "CPU s per frame", "lower", per_frame, spent, seeds=SEEDS[-1:])
    yield Row("dense SNR 8", "CPU over LoG", "lower", per_frame / spent["log"], target=2.0, seeds=SEEDS[-1:])
    yield Row("dense SNR 8", "MiB beyond input", "lower", extra_mib(ours), seeds=SEEDS[-1:])


def case(density: str, snr: float) -> Iterator[Row]:
    """Score one scenario: F1 with its interval over movies, precision, AP50."""
    name = f"{density} SNR {snr:g}"
    scores, overlap, beside = [], [], {n: [] for n in ("one frame", *PEERS)}
    for seed in SEEDS:
        scene = Scene(scenario(density, snr), PSF, CAMERA, seed)
        counts, volumes = movie(scene)
        found = dict(enumerate(whole(volumes)))
        scores.append(score({t: found[t] for t in FRAMES}, scene))
        overlap.append(score_instances(
            (segment_instances(volumes[t], found[t], SPACING_UM, PSF.sigma_um), scene.render(t)[1])
            for t in FRAMES).ap[0.5])
        single = {t: detect(volumes[t], SPACING_UM, PSF.sigma_um) for t in FRAMES}
        beside["one frame"].append(score(single, scene).f1)
        for peer in PEERS:
            beside[peer].append(tuned(peer, scene, volumes if peer == "voronoi_otsu" else counts))
    f1, low, high = mean_and_interval([s.f1 for s in scores])
    peers = {n: fmean(x) for n, x in beside.items()}
    yield Row(name, "f1", "higher", f1, peers, F1[density][snr], SEEDS, (low, high))
    yield Row(name, "precision", "higher", fmean(s.precision for s in scores), seeds=SEEDS)
    yield Row(name, "ap50", "higher", fmean(overlap), target=AP50[density].get(snr), seeds=SEEDS)


def movie(scene: Scene) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the camera's counts and our normalised frames of a movie's beginning."""
    counts = [scene.render(t)[0] for t in range(LENGTH)]
    return counts, [normalize(frame, fit_noise(frame), SPACING_UM) for frame in counts]


def whole(volumes: list[np.ndarray]) -> list[pd.DataFrame]:
    """Return ours for every frame."""
    return list(detect_movie(volumes, SPACING_UM, PSF.sigma_um))


def cpu_seconds(calls: dict[str, Callable[[], object]], repeats: int = 3) -> dict[str, float]:
    """Return the least CPU time of each call, all called in turn."""
    least = dict.fromkeys(calls, np.inf)
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - start)
    return least


def truth(scene: Scene, t: int) -> np.ndarray:
    table = scene.truth.positions
    return table.loc[(table["frame"] == t) & table["visible"], POSITION].to_numpy()


def score(found: dict[int, pd.DataFrame], scene: Scene) -> DetectionScore:
    pairs = ((table[POSITION].to_numpy(), truth(scene, t)) for t, table in found.items())
    return score_detection(pairs, FWHM_UM)


def frame_f1(density: str, snr: float, seed: int) -> float:
    """Return F1 of ours on the first frame of a scenario's movie, as the bench scores it.

    Parameters: density, "sparse" or "dense"; snr, median peak over noise; seed of the movie.
    """
    scene = Scene(scenario(density, snr), PSF, CAMERA, seed)
    counts = scene.render(0)[0]
    return score({0: detect(normalize(counts, fit_noise(counts), SPACING_UM), SPACING_UM, PSF.sigma_um)}, scene).f1


def tuned(name: str, scene: Scene, volumes: list[np.ndarray]) -> float:
    """Return a peer's F1 at the score threshold that is best on the tuning frames."""
    tables = {t: detect_with(name, volumes[t], SPACING_UM, PSF.sigma_um) for t in (*FRAMES, *TUNING)}
    cut = best_cut({t: tables[t] for t in TUNING}, scene)
    return score({t: tables[t][tables[t]["score"] >= cut] for t in FRAMES}, scene).f1


def best_cut(tables: dict[int, pd.DataFrame], scene: Scene) -> float:
    """Return the threshold with the best F1 by truth, among a hundred quantiles of the best-scored finds."""
    scores = np.concatenate([table["score"].to_numpy()[:1000] for table in tables.values()])
    cuts = np.unique(np.quantile(scores, np.linspace(0, 0.999, 100))) if len(scores) else np.zeros(1)
    return float(max(cuts, key=lambda cut: score({t: x[x["score"] >= cut] for t, x in tables.items()}, scene).f1))
