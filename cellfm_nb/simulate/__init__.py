"""The digital twin: optics and camera taken from real data, puncta that move, split and merge, and exact truth."""

from cellfm_nb.simulate.camera import Camera, camera_from_stack
from cellfm_nb.simulate.compare import Portrait, compare_with_real, portrait, scene_like
from cellfm_nb.simulate.config import SceneConfig
from cellfm_nb.simulate.motion import simulate_tracks
from cellfm_nb.simulate.movie import simulate_movie, write_simulated
from cellfm_nb.simulate.optics import Psf, gaussian_psf, measured_psf
from cellfm_nb.simulate.scan import Scan
from cellfm_nb.simulate.scenarios import scenario, scenario_optics
from cellfm_nb.simulate.scene import Scene
from cellfm_nb.simulate.truth import Truth, write_truth

__all__ = ["Camera", "Portrait", "Psf", "Scan", "Scene", "SceneConfig", "Truth", "camera_from_stack",
           "compare_with_real", "gaussian_psf", "measured_psf", "portrait", "scenario", "scenario_optics", "scene_like",
           "simulate_movie", "simulate_tracks", "write_simulated", "write_truth"]
