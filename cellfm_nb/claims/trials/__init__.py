"""Small tests of claims that no stage makes on its own way: seconds each, on a volume or a small simulated scene.

Each returns named figures; which of them decides a claim, and how, stands in ledger.yaml.
"""

from cellfm_nb.claims.trials.labels import made_from_labels
from cellfm_nb.claims.trials.learning import (
    crop_settings,
    hidden_voxels,
    resampling_memory,
    shuffled_patches,
    slice_by_slice,
)
from cellfm_nb.claims.trials.objects import (
    bleached_seeds,
    centre_errors,
    joint_distance,
    otsu_against_light,
    scales_of_blobs,
    touching_bodies,
)

__all__ = ["bleached_seeds", "centre_errors", "crop_settings", "hidden_voxels", "joint_distance", "made_from_labels",
           "otsu_against_light", "resampling_memory", "scales_of_blobs", "shuffled_patches", "slice_by_slice",
           "touching_bodies"]
