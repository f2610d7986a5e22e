"""Augment: views of a volume with exact geometry, and what a microscope does to their grey values; on plain tensors.

Every function takes CPU generators. Where a view lies and how bright it is, is drawn on the CPU: the same seed gives
the same on every machine. The noise of voxels is drawn on the tensor's own device: the same on every CPU, other numbers
of the same law on a GPU.
"""

from cellfm_nb.augment.geometry import Placement, place_crops, place_views, shared_fraction
from cellfm_nb.augment.photometry import add_camera_noise, blur, change_contrast, recorrupt, split_noise

__all__ = ["Placement", "add_camera_noise", "blur", "change_contrast", "place_crops", "place_views", "recorrupt",
           "shared_fraction", "split_noise"]
