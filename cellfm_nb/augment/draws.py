"""Random numbers of views: from one generator, or from one for each sample; noise is made where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Source = torch.Generator | Sequence[torch.Generator]


def draw(kind: Callable[..., Tensor], shape: Sequence[int], source: Source, dtype: torch.dtype = torch.float32,
         device: torch.device | str = "cpu") -> Tensor:
    """Draw numbers for views.

    Parameters: kind, torch.rand or torch.randn; shape (V, B, ...), or any with one generator; source, a CPU generator,
    or B of them: then the numbers of a sample are its own, whatever samples stand beside it; dtype; device.
    Returns: numbers of that shape on the device. On a CPU they come from the generator itself; elsewhere from a
    generator of that device which it seeds: other numbers, of the same law, and none that crosses the bus.
    """
    if isinstance(source, torch.Generator):
        if torch.device(device).type != "cpu":
            seed = int(torch.randint(2**62, (), generator=source))
            source = torch.Generator(device).manual_seed(seed)
        return kind(tuple(shape), generator=source, dtype=dtype, device=device)
    alone = (shape[0], 1, *shape[2:])
    return torch.cat([draw(kind, alone, one, dtype, device) for one in source], dim=1)
