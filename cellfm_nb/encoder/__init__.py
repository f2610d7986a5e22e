"""The 3D vision transformer: from a normalised volume to one descriptor per token, without positional encoding."""

from cellfm_nb.encoder.attention import Attention, cls_saliency
from cellfm_nb.encoder.blocks import Block, drops_of
from cellfm_nb.encoder.filters import blob_filters, filter_size
from cellfm_nb.encoder.host import keep_freed_memory
from cellfm_nb.encoder.patches import FilterStem, PatchStem, pad_to_patches
from cellfm_nb.encoder.vit import Encoder, EncoderConfig, Tokens, vits8
from cellfm_nb.encoder.weights import find_folder, load_encoder, save_encoder

__all__ = [
    "Attention", "Block", "Encoder", "EncoderConfig", "FilterStem", "PatchStem", "Tokens", "blob_filters",
    "cls_saliency", "drops_of", "filter_size", "find_folder", "keep_freed_memory", "load_encoder",
    "pad_to_patches", "save_encoder", "vits8",
]
