"""Curate: from raw stacks to what an encoder learns from, with a record of what was kept and why."""

from cellfm_nb.curate.background import background_level, background_spread
from cellfm_nb.curate.crops import choose_crops, signal_fraction, signal_mask
from cellfm_nb.curate.deskew import deskew, deskew_affine, deskew_planes, plane_shift_px, write_deskewed
from cellfm_nb.curate.noise import NoiseModel, fit_movie_noise, fit_noise
from cellfm_nb.curate.normalize import histogram_normalize, normalize, normalized_frame, stabilize
from cellfm_nb.curate.pack import fitting_crop, write_crops
from cellfm_nb.curate.quality import accepted, judge, quality_table, write_quality
from cellfm_nb.curate.resample import resample, resampled_shape
from cellfm_nb.curate.shards import ShardIndex, read_shards, write_shard, write_shards

__all__ = ["NoiseModel", "ShardIndex", "accepted", "background_level", "background_spread", "choose_crops", "deskew",
           "deskew_affine", "deskew_planes", "fit_movie_noise", "fit_noise", "fitting_crop", "histogram_normalize",
           "judge", "normalize", "normalized_frame", "plane_shift_px", "quality_table", "read_shards", "resample",
           "resampled_shape", "signal_fraction", "signal_mask", "stabilize", "write_crops", "write_deskewed",
           "write_quality", "write_shard", "write_shards"]
