"""The encoder: a 3D vision transformer, by default without positional encoding, for volumes of any size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cellfm_nb.encoder.blocks import Block
from cellfm_nb.encoder.patches import FilterStem, PatchStem
from cellfm_nb.encoder.position import KINDS, Position, head_width_fits, whole
from cellfm_nb.errors import InputError
from cellfm_nb.seeds import torch_rng


@dataclass(frozen=True)
class EncoderConfig:
    """Say what an encoder is made of; equal configurations have interchangeable weights.

    spacing_um: voxel size (z, y, x) it works on. patch: voxels of a token (z, y, x). width: channels D of a token.
    stem: "dog", overlapping blob filters; "conv", the same with random dense filters; "patch", plain Conv3d patches.
    layer_scale: 1 for short runs, 1e-5 for long ones. registers: learned tokens beside CLS (Darcet et al. 2024).
    position: "none" | "sincos" | "learned" | "rope", see `Position`; position_grid, tokens of the learned code.
    mlp: "gelu" | "swiglu"; qk_norm: queries and keys of one length. rivals: of the blob filters, how many say which
    voxels claim a source against their neighbours, see `patches.Rivalry`.
    """

    spacing_um: tuple[float, float, float] = (0.25, 0.1, 0.1)
    patch: tuple[int, int, int] = (4, 8, 8)
    width: int = 128
    depth: int = 3
    heads: int = 4
    mlp_ratio: float = 4.0
    stem: str = "dog"
    stem_channels: int = 6
    layer_scale: float = 1.0
    drop_path: float = 0.0
    registers: int = 0
    position: str = "none"
    position_grid: tuple[int, int, int] = (4, 4, 4)
    mlp: str = "gelu"
    qk_norm: bool = False
    rivals: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing_um", tuple(float(s) for s in self.spacing_um))
        object.__setattr__(self, "patch", tuple(int(p) for p in self.patch))
        object.__setattr__(self, "position_grid", tuple(int(n) for n in self.position_grid))
        for name, known in (("stem", ("dog", "conv", "patch")), ("position", KINDS), ("mlp", ("gelu", "swiglu"))):
            if getattr(self, name) not in known:
                raise InputError(f"unknown {name}", where=f"EncoderConfig.{name}", got=getattr(self, name),
                                 expected=" | ".join(known))
        if self.width % self.heads:
            raise InputError("width is not divisible by heads", where="EncoderConfig",
                             got=f"width {self.width}, heads {self.heads}", expected="width a multiple of heads")
        if not head_width_fits(self.position, self.width // self.heads):
            raise InputError("a head is too narrow for rotations in 3D", where="EncoderConfig",
                             got=f"{self.width // self.heads} channels", expected="an even number, at least 6")
        if len(self.patch) != 3 or len(self.spacing_um) != 3 or min(self.patch) < 1 or min(self.spacing_um) <= 0:
            raise InputError("patch and spacing need three positive numbers (z, y, x)", where="EncoderConfig",
                             got=f"patch {self.patch}, spacing_um {self.spacing_um}")


def vits8(spacing_um: tuple[float, float, float] = (0.25, 0.1, 0.1)) -> EncoderConfig:
    """Return the ViT-S/8 of the seed: width 384, depth 12, heads 6, plain 8^3 patches, 21.5 M parameters."""
    return EncoderConfig(spacing_um=spacing_um, patch=(8, 8, 8), width=384, depth=12, heads=6, stem="patch",
                         layer_scale=1e-5, drop_path=0.3)


class Tokens(NamedTuple):
    """Hold what an encoder says about a batch of volumes.

    cls (B, D) and patches (B, N, D), after the final norm; saliency (B, H, N), softmax attention probabilities of the
    CLS token over the patches in the last block; grid (z, y, x), with N = z y x and x running fastest.
    """

    cls: Tensor
    patches: Tensor
    saliency: Tensor
    grid: tuple[int, int, int]


class Encoder(nn.Module):
    """Encode normalised volumes: one descriptor per patch and one per volume.

    Parameters: config; seed, of the initial weights (Kaiming-like truncated normals, blob filters for the "dog" stem).
    Method: ViT (Dosovitskiy et al. 2021) in 3D without positions, after SpatialDINO.
    """

    def __init__(self, config: EncoderConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = c = config or EncoderConfig()
        self.stem = (PatchStem(c.width, c.patch) if c.stem == "patch" else
                     FilterStem(c.width, c.patch, c.stem_channels, c.spacing_um, c.rivals, separable=c.stem == "dog"))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.register_tokens = nn.Parameter(torch.zeros(1, c.registers, c.width)) if c.registers else None
        self.position = Position(c.position, c.width, c.width // c.heads, c.position_grid)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.mlp_ratio, c.layer_scale, c.drop_path, c.mlp, c.qk_norm)
                                    for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        self.checkpointing = False  # True: activations of a block are made again in the backward pass, not kept
        self._initialise(torch_rng(seed, "encoder"))

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of surround, whole patches, that make the tokens of a chunk those of the whole volume."""
        return self.stem.halo

    @property
    def n_parameters(self) -> int:
        """Number of trainable values."""
        return sum(p.numel() for p in self.parameters())

    def embed(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple[int, int, int]]:
        """Turn voxels into tokens, before any attention and without their place.

        Parameters: x (B, 1, Z, Y, X), normalised, any size; mask (B, N) bool, True hides a token's voxels.
        Returns: tokens (B, N, D) and their grid (z, y, x) = ceil(size / patch).
        """
        if x.dim() != 5 or x.shape[1] != 1:
            raise InputError("the encoder needs a batch of one-channel volumes", where="Encoder.embed",
                             got=tuple(x.shape), expected="(B, 1, Z, Y, X)")
        return self.stem(x, mask)

    def prefix(self, batch: int) -> Tensor:
        """Return the CLS token and the registers, (B, 1 + registers, D)."""
        tokens = [self.cls_token] if self.register_tokens is None else [self.cls_token, self.register_tokens]
        return torch.cat(tokens, dim=1).expand(batch, -1, -1)

    def forward(self, x: Tensor, mask: Tensor | None = None, saliency: bool = True) -> Tokens:
        """Encode x (B, 1, Z, Y, X), float32, normalised; see `embed` for the mask and `Tokens` for the result.

        saliency: False leaves it out (an empty tensor), which training has no use for.
        """
        patches, grid = self.embed(x, mask)
        first = 1 + self.config.registers
        if (code := self.position.added(whole(grid), grid)) is not None:
            patches = patches + code.flatten(0, 2).to(patches.dtype)
        x = torch.cat([self.prefix(len(patches)).to(patches.dtype), patches], dim=1)  # (B, first + N, D)
        angles = self.position.angles(0, x.shape[1], grid, first)
        for block in self.blocks:
            before = x
            x = (checkpoint(block, x, angles, use_reentrant=False) if self.checkpointing and self.training
                 else block(x, angles))
        last = self.blocks[-1]
        seen = (last.attention.saliency(last.norm1(before.detach()), angles)[:, :, first:] if saliency
                else x.new_empty(0))  # (B, H, N)
        x = self.norm(x)
        return Tokens(x[:, 0], x[:, first:], seen, grid)

    def with_registers(self, registers: int) -> Encoder:
        """Return a copy with this many zero register tokens more (test-time registers, Jiang et al. 2025)."""
        copy = Encoder(replace(self.config, registers=self.config.registers + registers))
        state = self.state_dict()
        if copy.register_tokens is not None:
            own = self.prefix(1)[:, 1:].detach()
            state["register_tokens"] = torch.cat([own, own.new_zeros(1, registers, self.config.width)], dim=1)
        copy.load_state_dict(state)
        return copy.train(self.training)

    def save_pretrained(self, folder: str | Path, trained_on: dict | None = None, dtype: str = "float32") -> Path:
        """Write encoder.safetensors, config.json and a model card, README.md, into a folder; see `weights.save_folder`.

        trained_on: JSON-able facts, best with "data", "figures", "limits" and "licence"; dtype, "float32" | "bfloat16".
        """
        from cellfm_nb.encoder.weights import save_folder

        return save_folder(self, folder, trained_on, dtype)

    @classmethod
    def from_pretrained(cls, place: str | Path, device: str = "cpu") -> Encoder:
        """Read what `save_pretrained` wrote: a folder, or the name of an encoder that comes with the package.

        Returns: the encoder in eval mode, float32, its weights checked by their sha256. Raises InputError otherwise.
        """
        from cellfm_nb.encoder.weights import load_encoder

        return load_encoder(place, device)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                fan_in = module.weight[0].numel()
                std = 0.02 if isinstance(module, nn.Linear) else fan_in**-0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std, generator=generator)
                module.bias.zero_()
        self.cls_token.normal_(std=0.02, generator=generator)
        if self.position.code is not None:
            self.position.code.normal_(std=0.02, generator=generator)
        if self.register_tokens is not None:
            self.register_tokens.normal_(std=0.02, generator=generator)
        if isinstance(self.stem, FilterStem):
            for layer, gain in ((self.stem.embed, 0.25), (self.stem.statistics, 1.0)):  # statistics speak first
                std = gain * layer.in_features**-0.5
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std, generator=generator)
            # a constant part in every token: the final LayerNorm then keeps how bright a patch is, not just its pattern
            self.stem.embed.bias.normal_(generator=generator)
            if self.config.stem == "dog":
                mix = self.stem.filters.mix.weight  # (C, S), more channels than blobs mix them at random
                nn.init.trunc_normal_(mix, std=mix.shape[1]**-0.5, generator=generator)
                self.stem.filters.set_blobs(self.config.spacing_um)
        else:
            nn.init.trunc_normal_(self.stem.mask_token, std=0.02, generator=generator)
