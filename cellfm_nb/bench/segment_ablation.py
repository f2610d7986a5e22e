"""What each idea of the detector is worth: the same movies without it, as the "peers" of the whole.

The movies, the frames that are scored and the seeds are those of `cellfm bench segment`. An idea is taken out by
putting nothing in the place of the function that carries it; what a frame shows by itself is looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row
from cellfm_nb.bench.segment import CAMERA, FRAMES, PSF, SEEDS, SPACING_UM, movie, score, whole
from cellfm_nb.score.instances import score_instances
from cellfm_nb.score.tracks import mean_and_interval
from cellfm_nb.segment import detect, segment_instances
from cellfm_nb.segment.blobs import Look, look
from cellfm_nb.segment.fit import weak_prior
from cellfm_nb.segment.links import Soft
from cellfm_nb.segment.movie import Learned
from cellfm_nb.simulate import Scene, scenario

CASES = (("sparse", 2.0), ("sparse", 4.0), ("dense", 2.0), ("dense", 4.0))


def no_gaps(paths: Any, soft: Any, chosen: Any, maps: list[np.ndarray], *rest: Any) -> tuple[list, list]:
    """Stand in for `gaps.fill`: no object but where there is a candidate."""
    return [Soft(np.zeros((0, 3)), np.zeros(0)) for _ in maps], [np.zeros(0, int) for _ in maps]


def no_priors(fits: Any, owner: Any, noise: Any, world: Any, spacing: Any) -> list:
    """Stand in for `refit.path_priors`: the other frames say nothing of place and size."""
    return [weak_prior(len(blobs), world.sigma_um) for blobs in fits]


def nothing_learned(paths: Any, false: Any, level: Any, soft: Any, psf: Any, volume_um3: Any,
                    before: Learned) -> Learned:
    """Stand in for `movie.learn`: step, density and amplitudes stay as they are first guessed."""
    return before


def no_static(coarse: Any, block: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Stand in for `static.static_background`: each frame has its own background alone."""
    return np.zeros(shape, np.float32)


WITHOUT: dict[str, dict[str, Callable]] = {  # the idea, and what stands in for which function of it
    "objects in gaps": {"cellfm_nb.segment.movie.fill": no_gaps},
    "what other frames tell the fit": {"cellfm_nb.segment.refit.path_priors": no_priors},
    "what the movie teaches": {"cellfm_nb.segment.movie.learn": nothing_learned},
    "static background": {"cellfm_nb.segment.movie.static_background": no_static},
}


def rows() -> Iterator[Row]:
    """Score the movies with every idea, without each one, and one frame by itself."""
    for density, snr in CASES:
        yield from case(density, snr)


def case(density: str, snr: float) -> Iterator[Row]:
    """Return F1 and AP50 of one scenario: the mean over movies, its interval, and what is left without each idea."""
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        scene = Scene(scenario(density, snr), PSF, CAMERA, seed)
        _, volumes = movie(scene)
        for name, tables in variants(volumes):
            overlap = score_instances((segment_instances(volumes[t], tables[t], SPACING_UM, PSF.sigma_um),
                                       scene.render(t)[1]) for t in FRAMES).ap[0.5]
            found.setdefault(name, []).append((score(tables, scene).f1, overlap))
    for i, metric in enumerate(("f1", "ap50")):
        values = {name: [pair[i] for pair in pairs] for name, pairs in found.items()}
        ours, low, high = mean_and_interval(values.pop("whole"))
        yield Row(f"{density} SNR {snr:g}, without an idea", metric, "higher", ours,
                  {name: fmean(some) for name, some in values.items()}, seeds=SEEDS, interval=(low, high))


def variants(volumes: list[np.ndarray]) -> Iterator[tuple[str, dict[int, pd.DataFrame]]]:
    """Yield the tables of the scored frames, {frame: table}, of the whole detector and without each idea."""
    looks: list[Look] = []

    def remember(*args: Any) -> Look:
        looks.append(look(*args))
        return looks[-1]

    for name, stand_ins in {"whole": {}, **WITHOUT}.items():
        looking = {"whole": remember, "static background": look}.get(name, looks)  # a list is answered item by item
        with ExitStack() as stack:
            stack.enter_context(patch("cellfm_nb.segment.movie.look", side_effect=looking))
            for target, stand_in in stand_ins.items():
                stack.enter_context(patch(target, stand_in))
            tables = whole(volumes)
        yield name, {t: tables[t] for t in FRAMES}
    yield "other frames", {t: detect(volumes[t], SPACING_UM, PSF.sigma_um) for t in FRAMES}
