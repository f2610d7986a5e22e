"""Every way of repair under one name, to be set side by side: encoder and volumes in, encoder out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellfm_nb.repair.engine import repair
from cellfm_nb.repair.registers import register_neurons, test_time_registers
from cellfm_nb.repair.train import PUBLISHED, RELATIVE

if TYPE_CHECKING:
    from cellfm_nb.encoder import Encoder

Way = Callable[["Encoder", Sequence[np.ndarray]], "Encoder"]


def zero_registers(encoder: Encoder, count: int) -> Encoder:
    """Return a copy with some tokens of zeros more, on the encoder's device."""
    return encoder.with_registers(count).to(next(encoder.parameters()).device)


WAYS: dict[str, Way] = {
    "nothing": lambda encoder, volumes: encoder,
    "clip": lambda encoder, volumes: repair(encoder, volumes)[0],
    "relative": lambda encoder, volumes: repair(encoder, volumes, clip=False, train=RELATIVE)[0],
    "published": lambda encoder, volumes: repair(encoder, volumes, clip=False, train=PUBLISHED)[0],
    "zero register": lambda encoder, volumes: zero_registers(encoder, 1),
    "test-time register": lambda encoder, volumes: test_time_registers(encoder, register_neurons(encoder, volumes)),
}
