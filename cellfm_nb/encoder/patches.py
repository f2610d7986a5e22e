"""From voxels to tokens: the plain patch embedding of the seed, and a stem of overlapping blob filters.

Both are local: a token depends on the voxels within `halo` of it, so a large volume can be embedded in chunks.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfm_nb.encoder.filters import DenseFilters, SeparableFilters, filter_size

Triple = tuple[int, int, int]


def pad_to_patches(x: Tensor, patch: Triple) -> Tensor:
    """Append zeros (the background of a normalised volume) so that each axis of (B, C, Z, Y, X) is whole patches."""
    z, y, x_ = (-size % p for size, p in zip(x.shape[2:], patch, strict=True))
    return F.pad(x, (0, x_, 0, y, 0, z)) if z or y or x_ else x


def to_sequence(grid: Tensor) -> Tensor:
    """Turn (B, D, z, y, x) into tokens (B, N, D), x running fastest."""
    return grid.flatten(2).transpose(1, 2)


class PatchStem(nn.Module):
    """Embed each patch by itself (Conv3d with stride = kernel), then add what the neighbouring patches say.

    Without positions all mask tokens would be one and the same vector after any number of blocks; the depthwise 3^3
    convolution on the token grid makes them differ, as conditional positional encodings do (Chu et al. 2021).
    """

    def __init__(self, width: int, patch: Triple) -> None:
        super().__init__()
        self.patch, self.halo = patch, patch
        self.embed = nn.Conv3d(1, width, patch, stride=patch)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.mix = nn.Conv3d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Triple]:
        """Return tokens (B, N, D) and the grid (z, y, x) of x (B, 1, Z, Y, X); mask (B, N), True = hidden."""
        tokens = self.embed(pad_to_patches(x, self.patch))  # (B, D, z, y, x)
        if mask is not None:
            hidden = mask.view(mask.shape[0], 1, *tokens.shape[2:])
            tokens = torch.where(hidden, self.mask_token.view(1, -1, 1, 1, 1).to(tokens.dtype), tokens)
        tokens = tokens + self.mix(tokens)
        return to_sequence(tokens), tuple(tokens.shape[2:])


class FilterStem(nn.Module):
    """Filter the voxels with overlapping blob filters (trainable), then describe the responses in each patch.

    The filters start as differences of Gaussians and Gaussians laid out in micrometres, so one prior serves every voxel
    size. A token is a linear map of its responses, averaged to a nearly isotropic raster, plus a linear map of their
    mean, maximum and standard deviation at full resolution: the maximum of a matched filter is what detects a punctum.
    Of its first `rivals` filters it also says how many sources voxels claim against each other (`Rivalry`).
    Masked patches are emptied BEFORE the filters, so that a masked token still sees its surround.

    Parameters: width, D; patch, voxels (z, y, x); channels, number of filters; spacing_um, (z, y, x); rivals;
    separable, filters are products of one an axis, else dense kernels.
    Attributes: reach, voxels (z, y, x) beyond its own that a token sees; halo, the same in whole patches.
    """

    def __init__(self, width: int, patch: Triple, channels: int, spacing_um: tuple[float, float, float],
                 rivals: int = 0, separable: bool = True) -> None:
        super().__init__()
        kernel, self.patch, self.rivals = filter_size(spacing_um), patch, min(rivals, channels)
        self.raster = raster(patch, spacing_um)
        self.rivalry = Rivalry(spacing_um)
        self.margin = self.rivalry.margin if self.rivals else (0, 0, 0)
        self.reach = tuple(k // 2 + m for k, m in zip(kernel, self.margin, strict=True))
        self.halo = tuple(math.ceil(r / p) * p for r, p in zip(self.reach, patch, strict=True))
        self.filters = (SeparableFilters if separable else DenseFilters)(channels, kernel)
        self.embed = nn.Linear(channels * math.prod(patch) // math.prod(self.raster), width)
        self.statistics = nn.Linear(3 * channels + 4 * self.rivals, width)
        self.mask_token = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Triple]:
        """Return tokens (B, N, D) and the grid (z, y, x) of x (B, 1, Z, Y, X); mask (B, N), True = hidden."""
        x = pad_to_patches(x, self.patch)
        grid = tuple(size // p for size, p in zip(x.shape[2:], self.patch, strict=True))
        if mask is not None:
            hidden = mask.view(mask.shape[0], 1, *grid)
            for axis, p in enumerate(self.patch):
                hidden = hidden.repeat_interleave(p, dim=axis + 2)  # (B, 1, Z, Y, X)
            x = x.masked_fill(hidden, 0)  # background, without its noise; a learned fill would cost half the step
        tokens = self.describe(*self.respond(x))
        if mask is not None:
            tokens = tokens + mask[..., None] * self.mask_token.to(tokens.dtype)
        return tokens, grid

    def respond(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the filters' responses to x (B, 1, Z, Y, X), empty beyond its borders, and what the rivals claim."""
        if not self.rivals:
            return self.filters(x), None
        with torch.no_grad():
            wide = self.filters(x, self.margin)
            claims = self.rivalry(wide[:, :self.rivals], self.patch)
        # a backward pass through the margin would cost more than the filters once more
        return self.filters(x) if torch.is_grad_enabled() else inner(wide, self.margin), claims

    def describe(self, response: Tensor, claims: Tensor | None) -> Tensor:
        """Turn the filters' responses into tokens (B, N, D).

        Parameters: response (B, C, Z, Y, X), whole patches; claims (B, N, 4 rivals) of `Rivalry`, None without rivals.
        """
        cells = asinh(to_cells(response, self.patch))  # linear at the noise, logarithmic at bright spots
        b, n, c, _ = cells.shape
        coarse = pool(cells.view(b * n, c, *self.patch), self.raster)
        tokens = self.embed(coarse.reshape(b, n, -1))
        told = asinh(cell_statistics(cells))
        if claims is not None:
            told = torch.cat([told, claims.to(told.dtype)], dim=-1)
        return tokens + self.statistics(told)


class Rivalry:
    """Let the voxels around a bright spot compete for it: whose source is it, and is there one?

    A matched filter's signal-to-noise ratio m speaks for a point source with the likelihood ratio exp(m^2 / 2), at the
    best brightness. Bayes' rule for at most one source in a window gives each voxel its share,
    odds / (1 + sum of odds): noise has none, a spot has 1, and its flanks don't count it again. Sharing what the
    neighbourhood has is divisive normalisation (Carandini and Heeger 2012). No gradient: it tells, it doesn't teach.

    Parameters: spacing_um (z, y, x); per_um3, sources expected per cubic micrometre; window_um, half the window in
    which one source explains the light; blur_um, by how much a place is uncertain.
    Attributes: margin, voxels (z, y, x) it needs around what it is asked of.
    """

    def __init__(self, spacing_um: tuple[float, float, float], per_um3: float = 0.04,
                 window_um: tuple[float, float, float] = (0.25, 0.2, 0.2),
                 blur_um: tuple[float, float, float] = (0.25, 0.1, 0.1)) -> None:
        self.rarity = per_um3 * math.prod(spacing_um)
        self.window, self.blur = (filter_size(spacing_um, um, largest=7) for um in (window_um, blur_um))
        self.margin = tuple(a // 2 + b // 2 for a, b in zip(self.window, self.blur, strict=True))

    @torch.no_grad()
    def __call__(self, response: Tensor, patch: Triple) -> Tensor:
        """Return what responses (B, C, Z, Y, X), margin included, claim in each patch: (B, N, 4C), float32.

        Of each filter: the sources expected in the patch, the largest claim of a voxel, and how sure both are, on a
        scale of logarithms.
        """
        claims = [to_cells(self.claims(part), patch) for part in response.split(1, dim=1)]  # each stays in the cache
        told = torch.cat([c.sum(dim=-1) / math.prod(self.blur) for c in claims] + [c.amax(dim=-1) for c in claims], -1)
        return torch.cat([told, torch.log1p(1000 * told) / 3], dim=-1)

    def claims(self, response: Tensor) -> Tensor:
        """Return the share each voxel has in a source, summed over the blur: the margin is lost."""
        m = response.float().clamp(0, 10)
        odds = torch.addcmul(m.new_tensor(math.log(self.rarity)), m, m, value=0.5, out=m).exp_()
        rivals = around(odds, self.window).add_(1)
        own = inner(odds, tuple(w // 2 for w in self.window))
        return around(torch.div(own, rivals, out=rivals), self.blur)


def inner(x: Tensor, margin: Triple) -> Tensor:
    """Cut a margin off each side of (B, C, Z, Y, X)."""
    return x[(..., *(slice(m, n - m) for m, n in zip(margin, x.shape[2:], strict=True)))]


def around(x: Tensor, window: Triple) -> Tensor:
    """Sum (B, C, Z, Y, X) over a window about each voxel that has all of it: an axis loses window - 1."""
    for axis, n in enumerate(window, start=2):  # slices added up: on a CPU ten times as fast as pooling
        size = x.shape[axis] - n + 1
        total = x.narrow(axis, 0, size) + x.narrow(axis, 1, size)
        for first in range(2, n):
            total += x.narrow(axis, first, size)
        x = total
    return x


class Asinh(torch.autograd.Function):
    """asinh(x) = sign(x) log(|x| + sqrt(1 + x^2)), six times as fast as torch's own on a CPU, equal to 1e-6."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        size = x.abs().to(torch.promote_types(x.dtype, torch.float32))  # 1 + a small number needs more than bfloat16
        root = torch.addcmul(size.new_ones(()), size, size).sqrt_()
        return root.add_(size).log_().to(x.dtype).copysign_(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.rsqrt(1 + x * x)


asinh = Asinh.apply


def pool(x: Tensor, window: Triple) -> Tensor:
    """Average (B, C, Z, Y, X) over blocks of `window` voxels; slices added up: on a CPU thrice as fast as pooling."""
    for axis, n in enumerate(window, start=2):
        if n > 1:
            x = reduce(torch.add, x.unflatten(axis, (-1, n)).unbind(axis + 1))
    return x / math.prod(window)


def to_cells(x: Tensor, cells: Triple) -> Tensor:
    """Cut (B, C, Z, Y, X) into blocks of `cells` each: (B, N, C, cells)."""
    b, c = x.shape[:2]
    z, y, x_ = (size // n for size, n in zip(x.shape[2:], cells, strict=True))
    blocks = x.view(b, c, z, cells[0], y, cells[1], x_, cells[2]).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return blocks.reshape(b, z * y * x_, c, -1)


def cell_statistics(cells: Tensor) -> Tensor:
    """Return mean, maximum and standard deviation over the last axis: (B, N, C, cells) -> (B, N, 3C)."""
    mean = cells.mean(dim=-1)
    apart = cells - mean[..., None]
    variance = (apart * apart).mean(dim=-1)  # on a CPU faster than var_mean, and than square, which is a power
    return torch.cat([mean, cells.amax(dim=-1), (variance + 1e-6).sqrt()], dim=-1)


def raster(patch: Triple, spacing_um: tuple[float, float, float], step_um: float = 0.2) -> Triple:
    """Return how many voxels (z, y, x) to average: the largest divisors of the patch that stay within `step_um`."""
    return tuple(max(d for d in range(1, p + 1) if p % d == 0 and (d == 1 or d * s <= step_um * 1.1))
                 for p, s in zip(patch, spacing_um, strict=True))
