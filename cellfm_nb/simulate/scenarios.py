"""Named scenes, so that a score says what it was measured on: sparse, dense, crowded, faint, drift, virus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cellfm_nb.errors import InputError
from cellfm_nb.simulate.camera import Camera
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.optics import Psf, gaussian_psf

SNRS = (1.2, 2.0, 4.0, 8.0)
SIGMA_UM = (0.25, 0.135, 0.135)  # of the PSF: 1, 1.3, 1.3 voxels

# z steps 2.4 times those of xy; light fades over 60 frames; an even cytoplasm with soft borders: with these trackpy
# and LoG maxima, tuned by truth, score about what they scored on the movies the peers were measured on
SPARSE = SceneConfig(shape=(40, 48, 160, 160), spacing_um=(0.25, 0.104, 0.104), envelope="open", outside=0.7,
                     n_puncta=45, radius_um=(0.0, 0.135), background_photons=100.0, diffusion_um2_s=0.0016,
                     directed_share=0.15, speed_um_s=0.16, split_rate_s=0.003, merge_rate_s=0.0012, texture=0.0,
                     edge_um=0.6)
DENSE = replace(SPARSE, envelope="cell", outside=0.12, n_puncta=78, diffusion_um2_s=0.0175, directed_share=0.15,
                speed_um_s=0.55, split_rate_s=0.005, merge_rate_s=0.0026)
SCENES = {
    "sparse": SPARSE,
    "dense": DENSE,
    # eight times the dense: one in seven lies within the PSF's width of another, two in three within twice that; they
    # move as the sparse do
    "crowded": replace(DENSE, n_puncta=600, diffusion_um2_s=0.0016, speed_um_s=0.16),
    # a wide spread of brightness: a fifth have less than half the median's peak, and they bleach twice as fast
    "faint": replace(SPARSE, brightness_spread=0.8, bleach_s=60.0),
    # the stage drifts 21 nm a second, 16 px over the movie, while the light fades twice as fast
    "drift": replace(SPARSE, drift_um_s=(0.004, 0.018, 0.01), bleach_s=60.0),
    # a re-creation (not the data) of the Particle Tracking Challenge's fourth scenario (Chenouard et al. 2014): motion
    # switching between Brownian, 1 px a frame along each axis, and directed, 2.5 px a frame; they appear and vanish.
    # n_puncta 100, 500 or 1000 and snr 1, 2, 4 or 7 are the challenge's
    "virus": SceneConfig(shape=(100, 10, 512, 512), spacing_um=(0.3, 0.1, 0.1), dt_s=1.0, envelope="box", n_puncta=500,
                         diffusion_um2_s=0.005, directed_share=0.4, speed_um_s=0.25, run_s=10.0, split_rate_s=0.0,
                         merge_rate_s=0.0, appear_rate_s=0.01, vanish_rate_s=0.01, blink_probability=0.0,
                         brightness_spread=0.0, bleach_s=1e6, background_photons=100.0, gradient=0.0, texture=0.0),
}


def scenario(name: str, snr: float = 4.0, **overrides: Any) -> SceneConfig:
    """Return the scene of that name.

    Parameters: name, a key of `SCENES`; snr, the median peak of the puncta in frame 0 over
    sqrt(background + read_noise^2), photoelectrons (1.2, 2, 4 and 8 are usual); overrides, fields of SceneConfig.
    Returns: SceneConfig; use it with `scenario_optics()`. Raises InputError on an unknown name or a bad number.
    `sparse` and `dense` follow the movies that the detection and tracking peers were measured on.
    """
    if name not in SCENES:
        raise InputError("No such scenario.", got=name, expected=", ".join(SCENES), do="Choose one of these.")
    return replace(SCENES[name], snr=snr, **overrides)


def scenario_optics() -> tuple[Psf, Camera]:
    """Return the PSF (Gaussian, 1 x 1.3 x 1.3 voxels) and the camera (read noise 1.6 e-) of the scenarios."""
    return gaussian_psf(SIGMA_UM), Camera(background=100.0, quick=True, source="scenario: a common sCMOS camera")
