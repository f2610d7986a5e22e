"""The fallback: a window at a time sees itself and a halo, no more; only its own tokens are kept.

This is MONAI's sliding window with a halo in place of blending, and with no halo it is
`monai.inferers.sliding_window_inference` without overlap. Features are then not those of the whole volume: what a token
attends to ends at the window, and positions, where an encoder has them, count from each window's corner. It is there
for comparison, and for volumes nothing else can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cellfm_nb.stream.embed import Triple, cut, inner, read_voxels

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder


def window_tokens(encoder: Encoder, volume: Any, grid: Triple, window: Triple, halo: Triple
                  ) -> Iterator[tuple[tuple[slice, ...], Tensor, Tensor, Tensor]]:
    """Encode window after window.

    Parameters: encoder; volume (z, y, x); grid, window and halo (z, y, x) in tokens, the halo on each side.
    Yields: token slices; descriptors (cz, cy, cx, D); saliency (cz, cy, cx, H), a probability within the window and
    its halo (so larger than one within the whole volume); cls (D,) of the window. Raises InputError on NaN or infinite
    voxels.
    """
    patch, weights = encoder.config.patch, encoder.cls_token
    surround = tuple(h * p for h, p in zip(halo, patch, strict=True))
    for where, low, high in cut(grid, window, surround, patch, volume.shape):
        voxels = torch.from_numpy(read_voxels(volume, low, high)).to(weights.device, weights.dtype)
        tokens = encoder(voxels[None, None])
        own = inner(where, low, patch)
        yield (where, tokens.patches[0].reshape(*tokens.grid, -1)[own],
               tokens.saliency[0].T.reshape(*tokens.grid, -1)[own], tokens.cls[0])
