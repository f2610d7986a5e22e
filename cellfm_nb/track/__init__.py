"""Link objects into tracks, find splits and merges, and hand them to other programs."""

from cellfm_nb.track.baselines import default_radius_um, link_with
from cellfm_nb.track.export import (
    CARRIES,
    edge_table,
    napari_tracks,
    read_events,
    read_tracks,
    write_csv,
    write_parquet,
)
from cellfm_nb.track.export_ctc import write_ctc
from cellfm_nb.track.export_geff import write_geff
from cellfm_nb.track.export_xml import read_ptc, write_ptc, write_trackmate
from cellfm_nb.track.link import Linking, describe, link_objects, write_linking
from cellfm_nb.track.review import apply_review, event_keys, not_rejected
from cellfm_nb.track.scales import read_scales, write_scales
from cellfm_nb.track.statistics import (
    bleaching,
    diffusion,
    directed_runs,
    dwell,
    mean_squared_displacement,
    model_steps,
    motion_table,
    step_lengths,
    track_statistics,
)

__all__ = ["CARRIES", "Linking", "apply_review", "bleaching", "default_radius_um", "describe", "diffusion",
           "directed_runs", "dwell", "edge_table", "event_keys", "link_objects", "link_with",
           "mean_squared_displacement", "model_steps", "motion_table", "napari_tracks", "not_rejected", "read_events",
           "read_ptc", "read_scales", "read_tracks", "step_lengths", "track_statistics", "write_csv", "write_ctc",
           "write_geff", "write_linking",
           "write_parquet", "write_ptc", "write_scales", "write_trackmate"]
