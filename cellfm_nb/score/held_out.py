"""Volumes whose truth no training sees: what two probes read from an encoder's tokens there, while it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellfm_nb.score.features import knn_probe, linear_probe


@dataclass(frozen=True)
class HeldOut:
    """Score an encoder as it is: give it to `pretrain(..., probe=HeldOut(...))`, every `probe_every` steps.

    volumes (m, z, y, x), normalised as the crops are; positive (m, N) bool, tokens that hold foreground, x running
    fastest; test, numbers of the volumes that are scored, the others are what the probes learn from.
    """

    volumes: np.ndarray
    positive: np.ndarray
    test: tuple[int, ...]

    def __call__(self, encoder: Callable[..., Any]) -> dict[str, float]:
        """Return {"probe_ap", "knn_ap"}, average precisions of its `.patches` (1, N, D) of (1, 1, z, y, x).

        Raises: InputError when a side lacks foreground or background.
        """
        import torch

        device = next(encoder.parameters()).device
        with torch.inference_mode():
            tokens = [encoder(torch.as_tensor(np.asarray(v, np.float32), device=device)[None, None]).patches[0]
                      for v in self.volumes]
        features = torch.cat(tokens).float().cpu().numpy()
        group = np.repeat(np.arange(len(self.volumes)), [len(t) for t in tokens])
        told = (features, np.ravel(self.positive), group, self.test)
        return {"probe_ap": linear_probe(*told).average_precision, "knn_ap": knn_probe(*told).average_precision}
