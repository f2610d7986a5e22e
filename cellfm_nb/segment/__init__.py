"""Segment: from normalised voxels to objects, with the false alarms counted instead of a threshold chosen."""

from cellfm_nb.segment.baselines import PEERS, detect_with, voronoi_otsu_labels
from cellfm_nb.segment.blobs import detect
from cellfm_nb.segment.bodies import find_foreground, larger_than_psf, segment_bodies
from cellfm_nb.segment.checks import free_places, plant, recovered, split_photons, vary
from cellfm_nb.segment.evidence import ScoreMap, score_map
from cellfm_nb.segment.filters import local_background, log_response, matched_filter
from cellfm_nb.segment.instances import FeatureGrid, segment_instances, voronoi
from cellfm_nb.segment.movie import detect_movie
from cellfm_nb.segment.objects import body_table, object_table
from cellfm_nb.segment.psf import estimate_psf_sigma
from cellfm_nb.segment.seeds import log_seeds
from cellfm_nb.segment.threshold import Otsu, fdr_threshold, fit_decoys, otsu, otsu_threshold, q_values
from cellfm_nb.segment.write import kind_of_objects, read_feature_grid, write_objects

__all__ = ["PEERS", "FeatureGrid", "Otsu", "ScoreMap", "body_table", "detect", "detect_movie", "detect_with",
           "estimate_psf_sigma", "fdr_threshold", "find_foreground", "fit_decoys", "free_places", "kind_of_objects",
           "larger_than_psf", "local_background", "log_response", "log_seeds", "matched_filter", "object_table",
           "otsu", "otsu_threshold", "plant", "q_values", "read_feature_grid", "recovered", "score_map",
           "segment_bodies", "segment_instances", "split_photons", "vary", "voronoi", "voronoi_otsu_labels",
           "write_objects"]
