"""A movie of 40 x 48 x 160 x 160 voxels with its truth: seconds, memory, and how exact the truth is.

The floor is the plain way: every punctum evaluated over the whole volume, numpy's Poisson, one frame after another.
It is timed on two frames and multiplied. "exact" is ours with numpy's Poisson in place of the quick noise.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.special import erf

from cellfm_nb.bench import Row, alternate, extra_mib
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import Scene, scenario, scenario_optics, simulate_movie, write_simulated
from cellfm_nb.simulate.scenarios import SIGMA_UM

SECONDS = 4.0
FLOOR_FRAMES = 2
PSF, CAMERA = scenario_optics()
EXACT = dataclasses.replace(CAMERA, quick=False)


def rows() -> Iterator[Row]:
    """Time sparse and dense movies in memory and on disk; then measure what the truth is worth."""
    for name in ("sparse", "dense"):
        config = scenario(name)
        scene = Scene(config, PSF, CAMERA)
        ways = {"ours": CAMERA} | ({"exact": EXACT} if name == "dense" else {})
        calls = {way: functools.partial(simulate_movie, config, PSF, camera) for way, camera in ways.items()}
        spent = alternate(calls | {"floor": functools.partial(floor, scene)}, repeats=2)
        spent["floor"] *= config.shape[0] / FLOOR_FRAMES
        yield Row(name, "seconds", "lower", spent.pop("ours"), spent, target=SECONDS, seeds=[0])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        held = extra_mib(lambda: write_simulated(Path(folder) / "movie.ome.zarr", Path(folder) / "truth", config, PSF,
                                                 CAMERA))
        yield Row("dense, to disk", "seconds", "lower", time.perf_counter() - started)
        yield Row("dense, to disk", "extra MiB", "lower", held)
    for snr in (1.2, 8.0):
        yield Row(f"sparse SNR {snr:g}", "SNR error", "lower", snr_error(snr), target=0.03, seeds=[0, 1, 2])
    yield Row("one punctum", "centroid, voxels", "lower", centroid_error(), {"placed on voxels": 0.5}, target=0.02)
    yield Row("dense", "mass lost, relative", "lower", mass_error(scene), target=1e-12, seeds=[0])


def floor(scene: Scene) -> None:
    """Draw frames the plain way."""
    shape, spacing = scene.config.shape[1:], scene.config.spacing_um
    for t in range(FLOOR_FRAMES):
        light, labels = scene.background.copy(), np.zeros(shape, np.uint32)
        for row in scene.truth.positions.query("frame == @t and visible").itertuples():
            axes = [profile(n, c, np.hypot(s, row.radius_um) / h) for n, c, s, h in
                    zip(shape, (row.z, row.y, row.x), SIGMA_UM, spacing, strict=True)]
            image = np.float32(row.mass) * axes[0][:, None, None] * axes[1][:, None] * axes[2]
            light += image
            labels[image > image.max() / 2] = row.track_id + 1
        EXACT.expose(light, rng(0, "bench", t))


def profile(n: int, centre: float, sigma: float) -> np.ndarray:
    """Integrate a unit Gaussian over n voxels."""
    return np.diff(0.5 * (1 + erf((np.arange(n + 1) - 0.5 - centre) / (sigma * np.sqrt(2))))).astype(np.float32)


def snr_error(snr: float) -> float:
    """Return the relative error of the median peak over the noise, read off noise-free frames; mean of three seeds."""
    found = []
    for seed in (0, 1, 2):
        scene = Scene(scenario("sparse", snr, shape=(1, 48, 160, 160)), PSF, CAMERA, seed)
        light = scene.expected(0) - scene.background
        corners = np.maximum(np.rint(scene.truth.positions[["z", "y", "x"]].to_numpy()).astype(int) - 2, 0)
        found.append(np.median([light[tuple(slice(a, a + 5) for a in c)].max() for c in corners]) / scene.noise)
    return float(abs(np.mean(found) / snr - 1))


def centroid_error() -> float:
    """Return the largest distance along an axis between a drawn punctum's centroid and its place, over 50 places."""
    places, worst = rng(0, "bench", "places").uniform(-0.5, 0.5, (50, 3)) + (12, 20, 20), 0.0
    grid = np.stack(np.meshgrid(np.arange(25), np.arange(41), np.arange(41), indexing="ij"), -1)
    for place in places:
        light = PSF.render((25, 41, 41), place[None], [1.0], 0.05, scenario("sparse").spacing_um).astype(float)
        centroid = (grid * light[..., None]).sum((0, 1, 2)) / light.sum()
        worst = max(worst, float(np.abs(centroid - place).max()))
    return worst


def mass_error(scene: Scene) -> float:
    """Return the largest relative change of mass across a split or merge, bleaching taken out."""
    mass = scene.truth.positions.set_index(["track_id", "frame"])["mass"]
    fade, worst = np.exp(-scene.config.dt_s / scene.config.bleach_s), 0.0
    for event in scene.truth.events.itertuples():
        before = sum(mass[int(i), event.frame - 1] for i in event.parents.split(";")) * fade
        worst = max(worst, abs(sum(mass[int(i), event.frame] for i in event.children.split(";")) / before - 1))
    return worst
