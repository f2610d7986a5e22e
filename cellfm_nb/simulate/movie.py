"""Simulated movies: whole in memory, or written frame by frame beside the tables and masks of their exact truth."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile

from cellfm_nb.errors import InputError
from cellfm_nb.movie import write_frames
from cellfm_nb.movie.source import RAW_SCAN
from cellfm_nb.progress import track
from cellfm_nb.simulate.camera import Camera, camera_from_stack
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.optics import Psf, measured_psf
from cellfm_nb.simulate.scene import Scene, Sparse, dense
from cellfm_nb.simulate.truth import Truth, write_truth

SIMULATED = "simulated"  # the name and the note every such movie carries


def simulate_movie(config: SceneConfig | None = None, psf: Psf | None = None, camera: Camera | None = None,
                   seed: int = 0) -> tuple[np.ndarray, Truth]:
    """Simulate a movie in memory.

    Parameters: config, default the tiny movie; psf, default Gaussian; camera, default a common sCMOS; seed.
    Returns: frames (t, z, y, x) uint16 and Truth, its labels (t, z, y, x) uint32 filled in (raw stacks, with a scan).
    For movies larger than memory use `Scene` or `write_simulated`.
    """
    config = config or SceneConfig()
    scene = Scene(config, psf, camera, seed)
    shape = (config.shape[0], *scene.frame_shape)
    frames, labels = np.empty(shape, np.uint16), np.zeros(shape, np.uint32)
    for t, (frame, (where, values)) in enumerate(rendered(scene)):
        frames[t] = frame
        labels[t].flat[where] = values
    return frames, dataclasses.replace(scene.truth, labels=labels)


def write_simulated(movie_path: Path, truth_path: Path, config: SceneConfig | None = None,
                    psf: Psf | Path | None = None, camera: Camera | Path | None = None, seed: int = 0,
                    psf_spacing_um: tuple[float, float, float] = (0.1, 0.1, 0.1)) -> None:
    """Write a simulated movie and its truth, a few frames in memory at a time (a writer for `Workspace.make`).

    Parameters: movie_path, the OME-Zarr to write; truth_path, the folder to write; config; psf, a Psf, or the TIFF of
    a bead with psf_spacing_um; camera, a Camera, or the TIFF of a raw stack to measure it on; None takes the
    built-in models. Raises InputError on files that are no such images.
    """
    config = config or SceneConfig()
    if isinstance(psf, str | Path):
        psf = measured_psf(read_stack(psf), tuple(psf_spacing_um), source=f"measured on {Path(psf).name}")
    if isinstance(camera, str | Path):
        camera = camera_from_stack(read_stack(camera), source=f"measured on {Path(camera).name}")
    scene = Scene(config, psf, camera, seed)
    masks: list[Sparse] = []  # kept while the frames go by
    shape, spacing = (config.shape[0], *scene.frame_shape), scene.frame_spacing_um
    notes = [SIMULATED, f"PSF: {scene.psf.source}", f"camera: {scene.camera.source}"]
    write_frames(movie_path, _taken(scene, masks), shape, np.uint16, spacing, config.dt_s, name=SIMULATED,
                 notes=notes + [f"{RAW_SCAN}, skewed"] * bool(scene.scan))
    write_truth(truth_path, scene.truth, (dense(m, scene.frame_shape) for m in masks))


def rendered(scene: Scene, workers: int | None = None) -> Iterator[tuple[np.ndarray, Sparse]]:
    """Yield every frame of a scene with its masks, in order, drawn by threads (numpy lets go of them while it draws).

    Parameters: scene; workers, default one a core, at most 8: one frame more is in memory. Same bits for any.
    """
    workers = workers or min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        for t in range(scene.config.shape[0]):
            waiting.append(pool.submit(scene.take, t))
            if len(waiting) > workers:  # one more than is drawn: no thread waits for the reader
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _taken(scene: Scene, masks: list[Sparse]) -> Iterator[np.ndarray]:
    """Yield the frames of a scene; note where each one's labels are, and which."""
    for frame, sparse in track(rendered(scene), "simulate", total=scene.config.shape[0]):
        masks.append(sparse)
        yield frame


def read_stack(path: Path) -> np.ndarray:
    """Read one small TIFF stack (z, y, x) whole. Raises InputError when it is absent or not one."""
    try:
        image = tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise InputError("The image can't be read.", where=Path(path).name, got=str(error),
                         expected="a TIFF stack (z, y, x)", do="Check the file, or fetch the data again.") from None
    if image.ndim != 3:
        raise InputError("The image is no volume.", where=Path(path).name, got=f"shape {image.shape}",
                         expected="a TIFF stack (z, y, x)", do="Give one channel of one time point.")
    return image
