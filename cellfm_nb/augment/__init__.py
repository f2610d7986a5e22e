"""Augment: views of a volume with exact geometry, and what a microscope does to their grey values; on plain tensors.

Every function takes a CPU torch.Generator and draws on the CPU, whatever the device of the tensor: the same seed gives
the same view on every machine.
"""

from cellfm_nb.augment.geometry import Placement, place_crops, place_views, shared_fraction
from cellfm_nb.augment.photometry import add_camera_noise, blur, change_contrast, recorrupt

__all__ = ["Placement", "add_camera_noise", "blur", "change_contrast", "place_crops", "place_views", "recorrupt",
           "shared_fraction"]
