"""A student that learns by gradient and a teacher that is its running mean."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.pretrain.heads import DenoiseHead, PrototypeHead
from cellfm_nb.pretrain.losses import centred, sinkhorn
from cellfm_nb.pretrain.ranks import rank_and_world, total
from cellfm_nb.pretrain.settings import PretrainSettings
from cellfm_nb.seeds import torch_rng


class Network(nn.Module):
    """Join an encoder with one prototype head for CLS and one for patches, or with one for both."""

    def __init__(self, encoder: Encoder, s: PretrainSettings, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.width
        self.cls_head = PrototypeHead(width, s.prototypes, s.hidden, s.bottleneck, torch_rng(seed, "cls head"))
        if not s.merged_heads:
            self.patch_head = PrototypeHead(width, s.prototypes, s.hidden, s.bottleneck, torch_rng(seed, "patch head"))

    def head(self, kind: str) -> PrototypeHead:
        """Return the head of "cls" or "patch"."""
        return self.patch_head if kind == "patch" and hasattr(self, "patch_head") else self.cls_head


class StudentTeacher(nn.Module):
    """Hold the student, its teacher, the denoising decoder, the teacher's centres, and its anchor if one is asked for.

    The teacher starts as a bit-wise copy of the student, never gets a gradient, and follows by `follow`.
    """

    def __init__(self, config: EncoderConfig, s: PretrainSettings, seed: int) -> None:
        super().__init__()
        self.student = Network(Encoder(config, seed=seed), s, seed)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.denoise_head = DenoiseHead(config.width, config.patch, config.spacing_um,
                                        torch_rng(seed, "denoise head"))
        self.anchor = copy.deepcopy(self.teacher.encoder) if s.gram else None
        self.centring = s.centring
        self.register_buffer("cls_centre", torch.zeros(s.prototypes))
        self.register_buffer("patch_centre", torch.zeros(s.prototypes))

    def train(self, mode: bool = True) -> StudentTeacher:
        """Set the training mode of the student; the teacher stays in eval mode."""
        super().train(mode)
        for still in (self.teacher, self.anchor):
            if still is not None:
                still.eval()
        return self

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student: teacher <- momentum teacher + (1 - momentum) student."""
        teacher, student = list(self.teacher.parameters()), list(self.student.parameters())
        torch._foreach_mul_(teacher, momentum)
        torch._foreach_add_(teacher, student, alpha=1 - momentum)

    def drop_anchor(self) -> None:
        """Remember the teacher's encoder as it is: what the student's patches are held to from now on."""
        self.anchor.load_state_dict(self.teacher.encoder.state_dict())

    @torch.no_grad()
    def targets(self, logits: Tensor, kind: str, temperature: float, momentum: float = 0.9) -> Tensor:
        """Turn teacher logits (..., K) of a kind ("cls" | "patch") into target probabilities, and update its centre."""
        if self.centring == "sinkhorn":
            return sinkhorn(logits, temperature)
        centre = self.cls_centre if kind == "cls" else self.patch_centre
        probabilities = centred(logits, centre, temperature)
        mean = total(logits.float().flatten(0, -2).mean(dim=0)) / rank_and_world()[1]
        centre.mul_(momentum).add_(mean, alpha=1 - momentum)
        return probabilities
