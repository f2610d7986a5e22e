"""What the ablation changes, one thing at a time, and what the seed claims of each change. Variants are data.

A change that no setting offers, such as one of the original's mistakes, is a context in which a part of the training is
replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.encoder import Encoder
from cellfm_nb.pretrain import engine, losses, masks, student_teacher, trainer

Change = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Variant:
    """One row of the ablation.

    claim: its number (A.. of the seed, F.. of our own earlier findings, "" for a reference); says: what the claim
    predicts of the variant beside its reference: "worse" | "no better" | "same" | "better" (probe on tokens), "finer" |
    "coarser" (probe on equal cells), "spreads" (hidden tokens of a view differ), "collapses" (RankMe), "stops" (the
    loss is not a number); against: the reference.
    config, settings, data: what differs from the base in EncoderConfig, PretrainSettings and `ssl_data.crops`.
    change: a context to train in. after: what becomes of the encoder before it is scored.
    """

    claim: str
    says: str
    against: str = "ours"
    config: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    change: Change = nullcontext
    after: Callable[[Encoder], Encoder] = lambda encoder: encoder


def hidden_alike() -> AbstractContextManager:
    """Take the convolution on the token grid off plain patches: all hidden tokens of a view are then one vector."""
    initialise = Encoder._initialise

    def without(self: Encoder, generator: torch.Generator) -> None:
        initialise(self, generator)
        self.stem.mix.requires_grad_(False).weight.zero_()

    return patch.object(Encoder, "_initialise", torch.no_grad()(without))


def mispaired() -> AbstractContextManager:
    """Pack views sample by sample and cut them as if they came view by view, as the original's first release did."""
    right = losses.dino_loss

    def wrong(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        globals_, locals_ = student[:len(teacher)], student[len(teacher):]
        packed = [views.transpose(0, 1).reshape(views.shape) for views in (teacher, globals_, locals_)]
        return right(packed[0], torch.cat(packed[1:]), temperature)

    return patch.object(losses, "dino_loss", wrong)


def scattered() -> AbstractContextManager:
    """Hide single tokens anywhere instead of blocks."""
    def anywhere(grid: tuple[int, int, int], count: int, generator: np.random.Generator, *_: object) -> np.ndarray:
        mask = np.zeros(int(np.prod(grid)), bool)
        mask[generator.permutation(mask.size)[:count]] = True
        return mask.reshape(grid)

    return patch.object(masks, "block_mask", anywhere)


def plain_exponential() -> AbstractContextManager:
    """Compute Sinkhorn on exp(logits / temperature) without care for overflow, as the original did."""
    @torch.no_grad()
    def naive(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
        q = torch.exp(logits.float().flatten(0, -2) / temperature)
        q = q / q.sum()
        for _ in range(iterations):
            q = q / q.sum(0, keepdim=True) / q.shape[1]
            q = q / q.sum(1, keepdim=True) / q.shape[0]
        return (q * q.shape[0]).view(logits.shape)

    return patch.object(student_teacher, "sinkhorn", naive)


def own_pixels() -> AbstractContextManager:
    """Ask hidden tokens for the voxels of the very view they are hidden in: a masked autoencoder (He et al. 2022)."""
    class MaskedAutoencoder(trainer.Trainer):
        def losses(self, views: object, mask: Tensor, *rest: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            parts, seen = super().losses(views, mask, *rest)
            head = self.model.denoise_head
            wanted = head.cells(views.globals.flatten(0, 1))
            parts["denoise"] = F.huber_loss(head(seen["student"])[mask], wanted[mask], delta=5.0)
            return parts, seen

    return patch.object(engine, "Trainer", MaskedAutoencoder)


PUBLISHED = {"dino": 1.0, "ibot": 1.0, "koleo": 0.1, "denoise": 0.0, "redundancy": 0.0}  # the seed's
ALIKE = {"config": {"stem": "patch"}, "settings": PUBLISHED, "change": hidden_alike}
DIFFER = {"settings": PUBLISHED}


def plus(variant: dict, **more: dict) -> dict:
    """Return the fields of a variant with some keys of its dictionaries added."""
    return variant | {name: variant.get(name, {}) | change for name, change in more.items()}


VARIANTS = {
    # references: what the others are compared with
    "ours": Variant("", ""),
    "untrained": Variant("F3", "worse", settings={"steps": 1, "lr": 1e-9}),  # how much there is to lose or gain
    "published losses": Variant("", "", **DIFFER),
    "hidden alike": Variant("", "", **ALIKE),
    # position
    **{f"{kind}, hidden differ": Variant("A10", "collapses", "published losses",
                                         **plus(DIFFER, config={"position": kind}))
       for kind in ("learned", "sincos", "rope")},
    **{f"{kind}, hidden alike": Variant("A10", "collapses", "hidden alike", **plus(ALIKE, config={"position": kind}))
       for kind in ("learned", "sincos", "rope")},
    "neighbours mixed in": Variant("A10", "spreads", "hidden alike", config={"stem": "patch"}, settings=PUBLISHED),
    # patch and stem
    "patch 4": Variant("A09", "finer", config={"patch": (2, 4, 4)}),
    "patch 14": Variant("A09", "coarser", config={"patch": (7, 14, 14)},
                        settings={"global_shape": (21, 42, 42), "local_shape": (7, 14, 14)}),
    "stem conv": Variant("F2", "worse", config={"stem": "conv"}),
    "stem patch": Variant("F2", "worse", config={"stem": "patch"}),
    "no rivals": Variant("F2", "worse", config={"rivals": 0}),
    # what it sees
    # the bench's box is the middle of a cell: the level tells nothing there, and costs; over whole frames it gains
    "no level": Variant("F1", "worse", data={"way": "no level"}),
    "z-score": Variant("A07", "worse", data={"way": "z-score"}),
    "min-max": Variant("A07", "worse", data={"way": "min-max"}),
    "random crops": Variant("A05", "worse", data={"chosen": "random"}),
    "flat views": Variant("A19", "worse", settings={"global_shape": (4, 40, 40), "local_shape": (4, 16, 24)}),
    "strong grey jitter": Variant("A18", "no better", settings={"brightness": (0.4, 2.5), "gamma": (0.5, 2.0)}),
    # losses
    "DINO alone": Variant("A15", "worse", "published losses", settings=PUBLISHED | {"ibot": 0.0}),
    "iBOT alone": Variant("A15", "worse", "published losses", settings=PUBLISHED | {"dino": 0.0}),
    "denoising alone": Variant("A15", "worse", settings={"dino": 0.0, "ibot": 0.0, "koleo": 0.0, "redundancy": 0.0}),
    "redundancy off": Variant("F5", "collapses", settings={"redundancy": 0.0}),
    "denoising weighed up": Variant("F4", "better", settings={"denoise": 30.0}),  # its gradient is a 25th of the rest
    "KoLeo off": Variant("A16", "collapses", "published losses", settings=PUBLISHED | {"koleo": 0.0}),
    "pixels of hidden patches": Variant("A45", "worse", "denoising alone", change=own_pixels, settings={
        "dino": 0.0, "ibot": 0.0, "koleo": 0.0, "redundancy": 0.0, "mask_ratio": (0.4, 0.6), "mask_share": 1.0}),
    "mis-paired CLS": Variant("A10", "worse", "published losses", change=mispaired, **DIFFER),
    "scattered masks": Variant("A17", "worse", "published losses", change=scattered, **DIFFER),
    "four times the prototypes": Variant("A14", "same", "published losses", settings=PUBLISHED | {"prototypes": 512}),
    # registers
    "1 zero register after": Variant("A12", "better", after=lambda encoder: encoder.with_registers(1)),
    "4 zero registers after": Variant("A12", "no better", after=lambda encoder: encoder.with_registers(4)),
    "4 registers trained": Variant("A13", "better", "published losses", **plus(DIFFER, config={"registers": 4})),
    # heat
    "rate x 10": Variant("A20", "collapses", "published losses", settings=PUBLISHED | {"lr": 2e-2}),
    "cold teacher": Variant("A21", "stops", "published losses", settings=PUBLISHED | {
        "teacher_temp_start": 0.005, "teacher_temp": 0.005}),
    "cold teacher, plain exponential": Variant("A21", "stops", "published losses", change=plain_exponential,
                                               settings=PUBLISHED | {"teacher_temp_start": 0.005,
                                                                     "teacher_temp": 0.005}),
}
