"""Curate: from raw stacks to what an encoder learns from, with a record of what was kept and why."""

from cellfm_nb.curate.agreement import agreement, cohen_kappa
from cellfm_nb.curate.background import background_level, background_spread, subtract_background
from cellfm_nb.curate.bleach import correct_bleaching, fit_bleaching, fit_movie_bleaching, frame_light, write_corrected
from cellfm_nb.curate.crops import choose_crops, signal_fraction, signal_mask
from cellfm_nb.curate.decisions import Decisions, apply_decisions
from cellfm_nb.curate.deskew import deskew, deskew_planes, write_deskewed
from cellfm_nb.curate.geometry import deskew_affine, plane_shift_px
from cellfm_nb.curate.geometry_estimate import estimate_geometry
from cellfm_nb.curate.loader import ShardLoader
from cellfm_nb.curate.many import curate_movies, find_movies
from cellfm_nb.curate.many_task import Recipe
from cellfm_nb.curate.noise import NoiseModel, fit_movie_noise, fit_noise
from cellfm_nb.curate.normalize import LEVEL, encoder_frame, normalize, normalized_frame, separate, stabilize
from cellfm_nb.curate.pack import fitting_crop, write_crops
from cellfm_nb.curate.quality import accepted, judge, quality_table, read_quality, write_quality
from cellfm_nb.curate.quality_summary import movie_quality, summarise
from cellfm_nb.curate.resample import resample, resampled_shape, write_resampled
from cellfm_nb.curate.shards import ShardIndex, read_shards, write_shard, write_shards
from cellfm_nb.curate.split import split_movies
from cellfm_nb.curate.stretch import histogram_normalize, movie_limits, percentiles, stretch_limits

__all__ = ["LEVEL", "Decisions", "NoiseModel", "Recipe", "ShardIndex", "ShardLoader", "accepted", "agreement",
           "apply_decisions", "background_level", "background_spread", "choose_crops", "cohen_kappa",
           "correct_bleaching", "curate_movies", "deskew", "deskew_affine", "deskew_planes", "encoder_frame",
           "estimate_geometry",
           "find_movies", "fit_bleaching", "fit_movie_bleaching", "fit_movie_noise", "fit_noise", "fitting_crop",
           "frame_light", "histogram_normalize", "judge", "movie_limits", "movie_quality", "normalize",
           "normalized_frame", "percentiles", "plane_shift_px", "quality_table", "read_quality", "read_shards",
           "resample", "resampled_shape", "separate", "signal_fraction", "signal_mask", "split_movies", "stabilize",
           "stretch_limits", "subtract_background", "summarise", "write_corrected", "write_crops", "write_deskewed",
           "write_quality", "write_resampled", "write_shard", "write_shards"]
