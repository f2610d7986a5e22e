"""Is it learning or collapsing? Numbers that tell, and alarms in plain words."""

from __future__ import annotations

import math

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.pretrain.losses import entropy_ratio

MEASURES = ("entropy_patch", "entropy_cls", "rankme", "feature_std", "dead", "outliers", "prototypes", "cls_patch",
            "masked_spread")
PROBE_FALL = 0.05  # of average precision; differences below about .03 are noise (`pretraining_findings.md`)


class Collapsed(RuntimeError):
    """The encoder has stopped telling things apart; the message says how, and what to try."""


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Return the effective rank of features (n, D): exp of the entropy of the normalised singular values, centred.

    1 for a line, up to min(n - 1, D) for an even spread. Source: RankMe (Garrido et al. 2023), centred here because
    a constant offset is not information.
    """
    x = features.double() - features.double().mean(dim=0)
    if not torch.isfinite(x).all():
        return 1.0
    s = torch.linalg.eigvalsh(x.T @ x).clamp(min=0).sqrt()
    if s.sum() <= 1e-12:
        return 1.0
    p = s / s.sum()
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


@torch.no_grad()
def feature_std(features: Tensor) -> float:
    """Return the mean over dimensions of the standard deviation over rows of (n, D)."""
    return float(features.float().std(dim=0, correction=0).mean())


@torch.no_grad()
def outlier_share(features: Tensor, factor: float = 3.0) -> float:
    """Return the share of rows of (n, D) whose norm is beyond `factor` times the median norm."""
    norms = features.float().norm(dim=1)
    return float((norms > factor * norms.median()).float().mean())


@torch.no_grad()
def dead_share(features: Tensor) -> float:
    """Return the share of dimensions of (n, D) whose standard deviation is under a tenth of the median one."""
    std = features.float().std(dim=0, correction=0)
    return float((std < 0.1 * std.median()).float().mean()) if std.median() > 0 else 1.0


@torch.no_grad()
def prototypes_used(targets: Tensor) -> float:
    """Return how many prototypes are the first choice of some row of (..., K), over how many could be."""
    chosen = targets.flatten(0, -2).argmax(dim=-1)
    return chosen.unique().numel() / min(targets.shape[-1], chosen.numel())


@torch.no_grad()
def cls_patch_similarity(cls: Tensor, patches: Tensor) -> float:
    """Return the mean cosine between CLS (B, D) and the patches (B, N, D) of its volume: 1 means they say the same."""
    return float(F.cosine_similarity(cls.float()[:, None], patches.float(), dim=-1).mean())


@torch.no_grad()
def masked_spread(tokens: Tensor, mask: Tensor) -> float:
    """Return how much the hidden tokens of one view differ: mean within-view standard deviation.

    Parameters: tokens (B, N, D); mask (B, N). 0 means that iBOT can only fit an average (`pretraining_findings.md`).
    """
    spreads = [t[m].float().std(dim=0, correction=0).mean() for t, m in zip(tokens, mask, strict=True) if m.sum() > 1]
    return float(torch.stack(spreads).mean()) if spreads else math.nan


def measure(seen: dict[str, Tensor]) -> dict[str, float]:
    """Return the `MEASURES` of a step.

    Parameters: seen: "teacher", "student" (V, N, D) patches, "teacher_cls" (V, D), "mask" (V, N), and, where a loss
    asks for them, "patch" (V, N, K) and "cls" (..., K), the target probabilities: without them their measures are nan.
    """
    patches, targets = seen["teacher"].flatten(0, 1), "patch" in seen
    return dict(zip(MEASURES, (
        *(float(entropy_ratio(seen[kind])) if targets else math.nan for kind in ("patch", "cls")),
        rankme(patches), feature_std(patches), dead_share(patches), outlier_share(patches),
        prototypes_used(seen["patch"]) if targets else math.nan,
        cls_patch_similarity(seen["teacher_cls"], seen["teacher"]), masked_spread(seen["student"], seen["mask"])),
        strict=True))


def collapsed(row: dict, width: int) -> bool:
    """Say whether a row of the log shows a collapse there is no way back from: no spread, or almost no rank."""
    return row["feature_std"] < 0.01 or row["rankme"] < 0.02 * width


def collapsed_since(log: list[dict], width: int) -> int:
    """Return how many rows at the end of a log show a collapse, one after the other."""
    return next((n for n, row in enumerate(reversed(log)) if not collapsed(row, width)), len(log))


def alarms(log: pd.DataFrame | dict, width: int) -> list[str]:
    """Say in plain words what looks wrong at the end of a log; an empty list when nothing does.

    Parameters: log, the table of `engine.pretrain` (its last row is judged, and its probes against the best of them),
    or one row as a dict; width, D.
    """
    row = log if isinstance(log, dict) else log.iloc[-1].to_dict()
    found = []
    if not math.isfinite(row["loss"]):
        found.append("The loss is not a number: the learning rate is too high, or the input holds NaN.")
    for kind, likely in (("patch", "sharpen the teacher (lower teacher_temp) or use fewer prototypes"),
                         ("cls", "use larger batches, a lower teacher_temp or fewer prototypes")):
        if row[f"entropy_{kind}"] > 0.9:
            found.append(f"The {kind} targets are near-uniform (entropy {row[f'entropy_{kind}']:.2f} log K): "
                         f"they teach almost nothing; {likely}.")
        if row[f"entropy_{kind}"] < 0.01:
            found.append(f"The {kind} targets are one-hot (entropy {row[f'entropy_{kind}']:.3f} log K): "
                         "the teacher may be stuck; raise teacher_temp.")
    if row["rankme"] < 0.05 * width:
        found.append(f"The features span few directions (RankMe {row['rankme']:.1f} of {width}): dimensional collapse; "
                     "lower the learning rate, or give the redundancy loss more weight.")
    if row.get("dead", 0.0) > 0.02:
        found.append(f"{100 * row['dead']:.0f}% of the dimensions are dead: the learning rate may be too high, or the "
                     "weight decay; raise warmup.")
    if row.get("outliers", 0.0) > 0.02:
        found.append(f"{100 * row['outliers']:.1f}% of the tokens have outlying norms: artefact tokens; give "
                     "the encoder registers, or repair it with notebook 05.")
    if row.get("prototypes", 1.0) < 0.02:
        found.append(f"Only {100 * row['prototypes']:.1f}% of the prototypes are ever chosen: the teacher favours "
                     "a few; use Sinkhorn centring or a higher teacher_temp.")
    if row.get("cls_patch", 0.0) > 0.98:
        found.append(f"Patches say what CLS says (cosine {row['cls_patch']:.2f}): local detail is lost; give "
                     "iBOT or the denoising loss more weight than DINO.")
    if row["feature_std"] < 0.01:
        found.append(f"The features hardly differ (standard deviation {row['feature_std']:.4f}): complete collapse; "
                     "check the centring and the learning rate.")
    if row.get("masked_spread", 1.0) < 1e-4:
        found.append("All hidden tokens of a view are the same: iBOT can only fit an average; "
                     "mask voxels before an overlapping stem.")
    probes = [] if isinstance(log, dict) or "probe_ap" not in log else log["probe_ap"].dropna()
    if len(probes) and probes.iloc[-1] < probes.max() - PROBE_FALL:
        found.append(f"The probe is falling: average precision {probes.iloc[-1]:.2f}, once {probes.max():.2f}; "
                     "stop there, lower the learning rate, or hold the patches by Gram anchoring.")
    return found
