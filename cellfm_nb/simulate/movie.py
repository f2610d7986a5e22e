"""Simulated movies: whole in memory, or written frame by frame beside the tables and masks of their exact truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from cellfm_nb.errors import InputError
from cellfm_nb.movie import write_frames
from cellfm_nb.progress import track
from cellfm_nb.simulate.camera import Camera, camera_from_stack
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.motion import Truth
from cellfm_nb.simulate.optics import Psf, measured_psf
from cellfm_nb.simulate.scene import Scene

SIMULATED = "simulated"  # the name and the note every such movie carries


def simulate_movie(config: SceneConfig | None = None, psf: Psf | None = None, camera: Camera | None = None,
                   seed: int = 0) -> tuple[np.ndarray, Truth]:
    """Simulate a movie in memory.

    Parameters: config, default the tiny movie; psf, default Gaussian; camera, default a common sCMOS; seed.
    Returns: frames (t, z, y, x) uint16 and Truth, its labels (t, z, y, x) uint32 filled in.
    For movies larger than memory use `Scene` or `write_simulated`.
    """
    config = config or SceneConfig()
    scene = Scene(config, psf, camera, seed)
    frames, labels = np.empty(config.shape, np.uint16), np.empty(config.shape, np.uint32)
    for t in range(config.shape[0]):
        frames[t], labels[t] = scene.render(t)
    return frames, dataclasses.replace(scene.truth, labels=labels)


def write_truth(folder: Path, truth: Truth, labels: Iterator[np.ndarray] | None = None) -> None:
    """Write positions.csv, tracks.csv, events.csv, scene.json and labels.zarr into a folder.

    Parameters: folder, made when absent; truth; labels, frames (z, y, x) uint32, default truth.labels.
    labels.zarr is OME-Zarr (t, 1, z, y, x) uint32: `Movie.open(folder / "labels.zarr")` reads it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("positions", "tracks", "events"):
        getattr(truth, name).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    scene = {"made_with": truth.made_with, "scene": dataclasses.asdict(truth.config)}
    (folder / "scene.json").write_text(json.dumps(scene, indent=1) + "\n")
    frames = iter(truth.labels) if labels is None and truth.labels is not None else labels
    if frames is not None:
        config = truth.config
        write_frames(folder / "labels.zarr", frames, config.shape, np.uint32, config.spacing_um, config.dt_s,
                     name="truth", labels=True)


def write_simulated(movie_path: Path, truth_path: Path, config: SceneConfig | None = None,
                    psf: Psf | Path | None = None, camera: Camera | Path | None = None, seed: int = 0,
                    psf_spacing_um: tuple[float, float, float] = (0.1, 0.1, 0.1)) -> None:
    """Write a simulated movie and its truth, one frame in memory at a time (a writer for `Workspace.make`).

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
    shown = track(range(config.shape[0]), "simulate", total=config.shape[0])
    write_frames(movie_path, (scene.render(t)[0] for t in shown), config.shape, np.uint16, config.spacing_um,
                 config.dt_s, name=SIMULATED, notes=[SIMULATED, f"PSF: {scene.psf.source}",
                                                     f"camera: {scene.camera.source}"])
    write_truth(truth_path, scene.truth, (scene.labels(t) for t in range(config.shape[0])))


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
