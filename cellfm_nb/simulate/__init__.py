"""The digital twin: optics and camera taken from real data, puncta that move, split and merge, and exact truth."""

from cellfm_nb.simulate.camera import Camera, camera_from_stack
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.motion import simulate_tracks
from cellfm_nb.simulate.movie import simulate_movie, write_simulated
from cellfm_nb.simulate.optics import Psf, gaussian_psf, measured_psf
from cellfm_nb.simulate.scan import Scan
from cellfm_nb.simulate.scenarios import scenario, scenario_optics
from cellfm_nb.simulate.scene import Scene
from cellfm_nb.simulate.truth import Truth, write_truth

__all__ = ["Camera", "Psf", "Scan", "Scene", "SceneConfig", "Truth", "camera_from_stack", "gaussian_psf",
           "measured_psf", "scenario", "scenario_optics", "simulate_movie", "simulate_tracks", "write_simulated",
           "write_truth"]
