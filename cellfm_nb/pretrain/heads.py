"""The projection heads that turn embeddings into soft assignments to prototypes, and the denoising decoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfm_nb.encoder import blob_filters, filter_size
from cellfm_nb.pretrain.ranks import standardise

Triple = tuple[int, int, int]


class PrototypeHead(nn.Module):
    """Score embeddings against K prototypes (DINO head, Caron et al. 2021), on a standardised batch.

    MLP to a bottleneck, unit length, weight-normalised linear layer without bias. Without standardising the input over
    the batch the targets went near-uniform unseen in short, hot runs (`pretraining_findings.md`, 5).
    """

    def __init__(self, width: int, prototypes: int, hidden: int, bottleneck: int, generator: torch.Generator) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, bottleneck)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        with torch.no_grad():
            for layer in (self.fc1, self.fc2, self.fc3):
                layer.weight.normal_(std=layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()
            self.prototypes.normal_(generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (..., K), cosines in [-1, 1], of embeddings x (..., D), in float32."""
        rows = standardise(x.float().flatten(0, -2))
        rows = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(rows)))))
        logits = F.normalize(rows, dim=-1) @ F.normalize(self.prototypes, dim=-1).T
        return logits.view(*x.shape[:-1], -1)


class DenoiseHead(nn.Module):
    """Predict, from a patch's token, what a blob filter sees in another noisy copy of the patch.

    The copy is looked at through one difference of Gaussians of about the size of the point-spread function, then
    averaged to at most `side` cells along each axis: single voxels are mostly noise, and what is left of the
    background is of no interest. A linear probe gained .015 at a signal-to-noise ratio of 4 over plain averages.
    """

    def __init__(self, width: int, patch: Triple, spacing_um: tuple[float, float, float], generator: torch.Generator,
                 side: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.pool = tuple(next(q for q in range(1, p + 1) if p % q == 0 and p // q <= side) for p in patch)
        blob = blob_filters(1, filter_size(spacing_um), spacing_um, sigmas_um=(0.12, 0.25))
        # the filter and the average over a cell are one kernel, laid at every cell: a tenth of the work of one by one
        cell = torch.full((1, 1, *self.pool), 1 / math.prod(self.pool))
        self.register_buffer("blob", F.conv3d(blob, cell, padding=[q - 1 for q in self.pool]))
        self.padding = [k // 2 for k in blob.shape[2:]]
        cells = tuple(p // q for p, q in zip(patch, self.pool, strict=True))
        self.fc = nn.Linear(width, cells[0] * cells[1] * cells[2])
        with torch.no_grad():
            self.fc.weight.normal_(std=0.02, generator=generator)
            self.fc.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, N, cells) for tokens (B, N, D), in float32."""
        return self.fc(tokens.float())

    def target(self, volume: Tensor) -> Tensor:
        """Filter volumes (B, 1, Z, Y, X), whole patches, and average them to (B, N, cells)."""
        response = F.conv3d(volume, self.blob, stride=self.pool, padding=self.padding)
        return self.by_patch(response[:, 0] / 2)  # the copy's noise is about 2 and the filter keeps it

    def cells(self, volume: Tensor) -> Tensor:
        """Average volumes (B, 1, Z, Y, X) to cells and sort these by patch: (B, N, cells)."""
        return self.by_patch(F.avg_pool3d(volume, self.pool, stride=self.pool)[:, 0])

    def by_patch(self, coarse: Tensor) -> Tensor:
        """Sort cells (B, Z', Y', X') by patch: (B, N, cells)."""
        z, y, x = (p // q for p, q in zip(self.patch, self.pool, strict=True))
        blocks = coarse.unfold(1, z, z).unfold(2, y, y).unfold(3, x, x)  # (B, nz, ny, nx, z, y, x)
        return blocks.flatten(4).flatten(1, 3)
