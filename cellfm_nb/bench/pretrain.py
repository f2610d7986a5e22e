"""The time of a training step, everything included, beside the bare model and what others take for the same work.

Width 192, 4 blocks, patch 8^3, a batch of 8 crops, two views of 32^3 and four of 16^3 each, 1,024 prototypes.
Everything: crops, views, masks, losses, optimiser, teacher, and health every fifth step.
Bare: the same networks forward and backward on ready-made tensors, softmax cross-entropies, AdamW, moving average.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfm_nb.bench import Row, alternate
from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.encoder.vit import Tokens
from cellfm_nb.pretrain import PretrainSettings, StudentTeacher, losses, make_masks, make_views
from cellfm_nb.pretrain.crops import Crops
from cellfm_nb.pretrain.masks import mask_weights
from cellfm_nb.pretrain.trainer import Trainer
from cellfm_nb.seeds import rng, torch_rng

CONFIG = {"patch": (8, 8, 8), "width": 192, "depth": 4, "heads": 4}
SETTINGS = PretrainSettings(steps=10_000, batch=8, global_shape=(32, 32, 32), local_shape=(16, 16, 16), n_local=4,
                            prototypes=1024, ema=0.99, health_every=5)
CROP = (48, 48, 48)
STEPS = 5  # timed together: health is measured in one of them
TARGET = 1.25  # of the bare step


def rows() -> Iterator[Row]:
    """Time steps, their parts, views against MONAI's, blocks against torch's and losses against lightly's."""
    crops = rng(0, "bench pretrain", "crops").normal(size=(32, *CROP)).astype(np.float32)
    for stem in ("dog", "patch"):
        config = EncoderConfig(**CONFIG, stem=stem)
        trainer = Trainer(Crops(crops), config, SETTINGS, 0, "cpu")
        ours, model = whole(trainer), StudentTeacher(config, SETTINGS, 0)
        spent = alternate({"ours": ours, "bare": bare(model, model.student.encoder, model.teacher.encoder)}, repeats=3)
        one, base = spent["ours"] / STEPS, spent["bare"] / STEPS
        parts = alternate(pieces(trainer), repeats=5)
        yield Row(f"step, stem {stem}", "seconds", "lower", one, {"bare": base} | parts)
        yield Row(f"step, stem {stem}", "time / bare", "lower", one / base, target=TARGET)
    yield from others(crops)


def whole(trainer: Trainer) -> Callable[[], None]:
    """Return what makes the next STEPS steps of a run."""
    state = {"step": 0, "row": None}

    def go() -> None:
        for _ in range(STEPS):
            state["row"] = trainer.step(state["step"], state["row"])
            state["step"] += 1
    return go


def bare(model: StudentTeacher, student: nn.Module, teacher: nn.Module) -> Callable[[], None]:
    """Return what makes STEPS steps of the networks alone, on tensors that are there already."""
    generator, s = torch_rng(0, "bench pretrain", "bare"), SETTINGS
    globals_, locals_ = (torch.randn(n * s.batch, 1, *shape, generator=generator)
                         for n, shape in ((2, s.global_shape), (s.n_local, s.local_shape)))
    heads = [model.student.cls_head, model.student.patch_head, model.denoise_head]
    optimiser = torch.optim.AdamW([p for part in (student, *heads) for p in part.parameters() if p.requires_grad],
                                  foreach=True)
    followed = [(t, s_) for a, b in ((teacher, student), (model.teacher.cls_head, model.student.cls_head),
                                     (model.teacher.patch_head, model.student.patch_head))
                for t, s_ in zip(a.parameters(), b.parameters(), strict=True)]
    teachers, students = zip(*followed, strict=True)

    def go() -> None:
        for _ in range(STEPS):
            with torch.no_grad():
                told = teacher(globals_)
                cls_target = (model.teacher.cls_head(told.cls) / 0.04).softmax(-1)
                patch_target = (model.teacher.patch_head(told.patches) / 0.04).softmax(-1)
            seen, local = student(globals_), student(locals_)
            cls, others = model.student.cls_head(seen.cls), model.student.cls_head(local.cls)
            loss = F.cross_entropy(cls / 0.1, cls_target.roll(s.batch, 0))
            loss = loss + F.cross_entropy(others / 0.1, cls_target.repeat(s.n_local // 2, 1))
            patches = model.student.patch_head(seen.patches)
            loss = loss + F.cross_entropy(patches.flatten(0, 1) / 0.1, patch_target.flatten(0, 1))
            loss = loss + model.denoise_head(seen.patches).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(teachers, students, 0.01)
    return go


def pieces(trainer: Trainer) -> dict[str, Callable[[], object]]:
    """Return parts of a step that a bare one has not, by name."""
    s, samples = trainer.s, range(trainer.s.batch)
    masks = make_masks(2 * s.batch, trainer.grid, s.mask_ratio, s.mask_share, rng(0, "bench pretrain", "mask"))
    with torch.no_grad():
        _, seen = trainer.losses(trainer.views(0, samples), masks, s.teacher_temp)
    return {"views": lambda: trainer.views(0, samples),
            "masks": lambda: make_masks(2 * s.batch, trainer.grid, s.mask_ratio, s.mask_share, rng(0, "mask")),
            "health": lambda: trainer.measure(0, seen, None)}


class TorchEncoder(nn.Module):
    """The same shape from torch's own parts: Conv3d patches, nn.TransformerEncoder (SDPA inside), LayerNorm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * config.width)
        layer = nn.TransformerEncoderLayer(config.width, config.heads, hidden, dropout=0.0, activation="gelu",
                                           batch_first=True, norm_first=True)
        self.embed = nn.Conv3d(1, config.width, config.patch, stride=config.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.blocks = nn.TransformerEncoder(layer, config.depth, nn.LayerNorm(config.width), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tokens:
        grid = self.embed(x)
        x = self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), grid.flatten(2).transpose(1, 2)], dim=1))
        return Tokens(x[:, 0], x[:, 1:], x[:, :0], tuple(grid.shape[2:]))


def others(crops: np.ndarray) -> Iterator[Row]:
    """Compare views with MONAI's, the bare step with that of torch's own blocks, the losses with lightly's."""
    batch = torch.from_numpy(crops[:SETTINGS.batch])[:, None]
    spent = alternate({"ours": lambda: make_views(batch, SETTINGS, torch_rng(0, "bench pretrain", "views")),
                       "monai": monai_views(batch)}, repeats=3)
    each = {name: 1000 * value / SETTINGS.batch for name, value in spent.items()}
    yield Row("views of one crop", "milliseconds", "lower", each.pop("ours"), each)

    config = EncoderConfig(**CONFIG, stem="patch")
    model, plain = StudentTeacher(config, SETTINGS, 0), [TorchEncoder(config) for _ in range(2)]
    spent = alternate({"ours": bare(model, Encoder(config), Encoder(config)), "torch": bare(model, *plain)}, repeats=3)
    yield Row("bare step, stem patch", "time / torch's blocks", "lower", spent["ours"] / spent["torch"], target=1.0)
    try:
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
    except Exception as error:  # not installed, or its torchvision does not fit
        print(f"lightly's losses are left out: {error}", file=sys.stderr)
        return
    b, k, n = SETTINGS.batch, SETTINGS.prototypes, 64
    g = torch_rng(0, "bench pretrain", "logits")
    teacher, student = torch.randn(2, b, k, generator=g), torch.randn(6, b, k, generator=g).requires_grad_()
    hidden = torch.rand(2 * b, n, 1, generator=g) < 0.3
    masked = [torch.randn(int(hidden.sum()), k, generator=g).requires_grad_(i > 0) for i in range(2)]
    weights = mask_weights(hidden.flatten(1))
    dino, ibot, koleo = DINOLoss(k), IBOTPatchLoss(k), KoLeoLoss()
    centre, cls = torch.zeros(k), torch.randn(2, b, 192, generator=g).requires_grad_()

    def ours() -> None:
        (losses.dino_loss(losses.centred(teacher, centre, 0.04), student, 0.1) + losses.koleo_loss(cls)
         + losses.ibot_loss(losses.centred(masked[0], centre, 0.04), masked[1], weights, 0.1)).backward()

    def lightly() -> None:
        (dino(list(teacher), list(student)) + (koleo(cls[0]) + koleo(cls[1])) / 2
         + ibot(*masked, hidden)).backward()

    spent = alternate({"ours": ours, "lightly": lightly}, repeats=20)
    yield Row("losses", "milliseconds", "lower", 1000 * spent["ours"], {"lightly": 1000 * spent["lightly"]})


def monai_views(batch: Tensor) -> Callable[[], object]:
    """Return what makes the same views of a batch with MONAI's transforms."""
    from monai import transforms as mt

    def pipeline(shape: tuple[int, ...]) -> mt.Compose:
        return mt.Compose([mt.RandSpatialCrop(shape, random_size=False), *(mt.RandFlip(0.5, axis) for axis in range(3)),
                           mt.RandRotate90(0.5, spatial_axes=(1, 2)), mt.RandScaleIntensity(0.2, 1.0),
                           mt.RandAdjustContrast(1.0, (0.9, 1.1)), mt.RandGaussianNoise(1.0, std=0.5)])

    each = {SETTINGS.global_shape: (2, pipeline(SETTINGS.global_shape)),
            SETTINGS.local_shape: (SETTINGS.n_local, pipeline(SETTINGS.local_shape))}
    return lambda: [[way(crop) for _ in range(n)] for crop in batch for n, way in each.values()]
