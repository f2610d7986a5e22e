"""Every number of a pretraining run, with the values that let a small encoder learn in a minute or two."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cellfm_nb.errors import InputError


@dataclass(frozen=True)
class PretrainSettings:
    """Say how to train; `pretraining_findings.md` says what was tried.

    steps, batch: optimiser steps, crops per step. lr, min_lr, warmup: peak and last learning rate, share of the steps
    spent rising; filter_lr, factor for the stem's filters. weight_decay, weight_decay_end: cosine from one to the
    other. clip: largest gradient norm. ema, ema_end: momentum of the teacher, cosine.
    student_temp, teacher_temp_start, teacher_temp, teacher_temp_warmup: softmax temperatures, share of the steps
    spent going from the second to the third. freeze_last: share of the steps in which the prototypes stand still.
    prototypes, hidden, bottleneck: sizes of the heads. centring: "sinkhorn" or "centre".
    global_shape, local_shape (z, y, x) voxels, n_local: views. min_overlap: least share of the smaller view that two
    compared views have in common. mask_ratio, mask_share: range of hidden tokens, share of views that have any.
    noise: range of the added noise in units of the image's own. brightness, gamma: ranges.
    dino, ibot, koleo, denoise: weights of the losses; the gradient of denoising is about 25 times smaller than that of
    .1 DINO and .3 iBOT, and an optimiser that scales their sum hears nothing of it at 1. redundancy: weight of the
    correlations between dimensions of the patches: each of the others lets the rank fall, to a fifth of the width; at
    .1 the rank is higher, and the probe's average precision .01 lower. layer_decay: factor of the learning rate from
    one block to the one below. accumulate: parts a batch is worked through in, to save memory; what couples samples
    (Sinkhorn, KoLeo, redundancy, heads that standardise) then sees one part at a time.
    checkpoint_every, health_every, probe_every (0: never): steps.
    patience: measurements in a row that say "collapsed" before the run stops (0: never).
    pairs: what the views of a place show: "same", its first picture; "next", its pictures in turn (neighbouring frames,
    or independent exposures, see `Crops`); "noise", two halves of its first picture with independent noises.
    scale: range of voxels of the crop per voxel of a view, in y and x; None for no stretching.
    mask_foreground: least share of a masked view's foreground tokens to hide, found without labels; 0 for no bias.
    gram: weight of the loss that keeps the patches as alike as an earlier teacher saw them; gram_every, steps between
    two such anchors, none before the first. decorrelate: weight of the covariance of patches with their position, which
    is small (1e-5 untrained): it acts by the thousand. merged_heads: one head for CLS and patches.
    checkpointing: make the student's activations again in the backward pass instead of keeping them: less memory, a
    third more time, the same gradients.
    """

    steps: int = 320
    batch: int = 4
    lr: float = 2e-3
    min_lr: float = 1e-6
    warmup: float = 0.1
    filter_lr: float = 0.05
    weight_decay: float = 0.04
    weight_decay_end: float = 0.04
    clip: float = 3.0
    ema: float = 0.98
    ema_end: float = 1.0
    student_temp: float = 0.1
    teacher_temp_start: float = 0.03
    teacher_temp: float = 0.03
    teacher_temp_warmup: float = 0.1
    freeze_last: float = 0.01
    prototypes: int = 128
    hidden: int = 256
    bottleneck: int = 64
    centring: str = "sinkhorn"
    global_shape: tuple[int, int, int] = (16, 32, 32)
    local_shape: tuple[int, int, int] = (8, 16, 16)
    n_local: int = 2
    min_overlap: float = 0.25
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    mask_share: float = 0.5
    noise: tuple[float, float] = (0.5, 0.6)
    brightness: tuple[float, float] = (0.8, 1.25)
    gamma: tuple[float, float] = (0.9, 1.1)
    dino: float = 0.1
    ibot: float = 0.3
    koleo: float = 0.01
    denoise: float = 1.0
    redundancy: float = 0.01
    layer_decay: float = 1.0
    accumulate: int = 1
    checkpoint_every: int = 50
    health_every: int = 10
    probe_every: int = 0
    patience: int = 5
    pairs: str = "same"
    scale: tuple[float, float] | None = None
    mask_foreground: float = 0.0
    gram: float = 0.0
    gram_every: int = 100
    decorrelate: float = 0.0
    merged_heads: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("global_shape", "local_shape", "mask_ratio", "noise", "brightness", "gamma"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.scale is not None:
            object.__setattr__(self, "scale", tuple(self.scale))
        if self.centring not in ("sinkhorn", "centre"):
            raise InputError("unknown centring", where="PretrainSettings.centring", got=self.centring,
                             expected="sinkhorn | centre")
        if self.steps < 1 or self.batch < 1 or self.lr <= 0 or self.prototypes < 2 or self.noise[0] <= 0:
            raise InputError("steps, batch, lr and noise must be positive, prototypes at least 2",
                             where="PretrainSettings", got=self)
        if self.accumulate < 1 or self.batch % self.accumulate or not 0 < self.layer_decay <= 1:
            raise InputError("a batch can't be cut like this", where="PretrainSettings",
                             got=f"batch {self.batch}, accumulate {self.accumulate}, layer_decay {self.layer_decay}",
                             expected="accumulate a divisor of batch, layer_decay in (0, 1]")
        if self.pairs not in ("same", "next", "noise"):
            raise InputError("unknown pairs", where="PretrainSettings.pairs", got=self.pairs,
                             expected="same | next | noise")
        if not 0 <= self.mask_foreground <= 1 or self.gram_every < 1 or min(
                self.gram, self.decorrelate, self.redundancy) < 0:
            raise InputError("an option is out of range", where="PretrainSettings",
                             got=f"mask_foreground {self.mask_foreground}, gram {self.gram}, gram_every "
                                 f"{self.gram_every}, decorrelate {self.decorrelate}, redundancy {self.redundancy}",
                             expected="a share; weights >= 0; gram_every >= 1")
        if any(s > g for s, g in zip(self.local_shape, self.global_shape, strict=True)):
            raise InputError("a local view is larger than a global one", where="PretrainSettings",
                             got=f"local_shape {self.local_shape}, global_shape {self.global_shape}")

    @classmethod
    def of(cls, profile: object, **overrides: object) -> PretrainSettings:
        """Take the fields of the same names from a profile's settings; overrides that are not None win."""
        names = [f.name for f in fields(cls)]
        given = {name: getattr(profile, name) for name in names if hasattr(profile, name)}
        return cls(**given | {name: value for name, value in overrides.items() if value is not None})
