"""What is asked of the encoder: views agree, hidden tokens are guessed, embeddings and dimensions differ, noise goes.

All in float32. Tensors carry the view axis first and the sample axis second, (V, B, K): a loss cannot pair the views of
different samples, which is what the original's chunking did (7% of its pairs were right).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfm_nb.pretrain.ranks import column_logsumexp, gathered, rank_and_world, standardise, total


def cross_entropy(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return -sum_k t_k log softmax(s / temperature)_k for probabilities and logits (..., K)."""
    return -(teacher * F.log_softmax(student.float() / temperature, dim=-1)).sum(dim=-1)


def view_pairs(n_teacher: int, n_student: int) -> list[tuple[int, int]]:
    """List the (teacher view, student view) pairs compared: every one but a view with itself."""
    return [(i, j) for i in range(n_teacher) for j in range(n_student) if i != j]


def dino_loss(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Ask each view of a sample for what the teacher saw in another view of the same sample.

    Parameters: teacher (Vt, B, K) probabilities of the global views; student (Vs, B, K) logits, global views first.
    Returns: the mean cross-entropy over pairs and samples.
    Source: DINO (Caron et al. 2021), DINOv2 (Oquab et al. 2023).
    """
    pairs = view_pairs(len(teacher), len(student))
    return torch.stack([cross_entropy(teacher[i], student[j], temperature).mean() for i, j in pairs]).mean()


def ibot_loss(teacher: Tensor, student: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Ask the hidden tokens for what the teacher sees there (iBOT, Zhou et al. 2022).

    Parameters: teacher, student (M, K), the hidden tokens alone; weights (M,), see `masks.mask_weights`.
    Returns: the weighted mean over all ranks, so that each masked view counts once; 0 when nothing is hidden.
    """
    count = total(weights.sum()) / rank_and_world()[1]  # ranks hold different numbers of masked views
    return (weights * cross_entropy(teacher, student, temperature)).sum() / count.clamp(min=1e-6)


def koleo_loss(embeddings: Tensor) -> Tensor:
    """Spread the embeddings of different samples: minus the mean log distance to the nearest neighbour.

    Parameters: embeddings (V, B, D) of the backbone, NOT logits of a head; views are treated one by one, since two
    views of one sample should be close. Neighbours are looked for on all ranks. Returns 0 for a batch of one.
    Source: Kozachenko-Leonenko estimator (Sablayrolles et al. 2019), as in DINOv2.
    """
    x = gathered(F.normalize(embeddings.float(), dim=-1), dim=1)
    if x.shape[1] < 2:
        return x.sum() * 0.0
    with torch.no_grad():
        similarity = x @ x.transpose(1, 2)  # (V, B, B)
        similarity.diagonal(dim1=1, dim2=2).fill_(-2.0)
        nearest = similarity.argmax(dim=-1)  # (V, B)
    neighbour = torch.gather(x, 1, nearest[..., None].expand_as(x))
    return -torch.log((x - neighbour).pow(2).sum(dim=-1).clamp(min=1e-16).sqrt() + 1e-8).mean()


def denoise_loss(prediction: Tensor, target: Tensor, delta: float = 5.0) -> Tensor:
    """Compare with the other noisy copy: Huber, so that the brightest spots do not decide alone.

    Parameters: prediction, target (B, N, cells), in noise units; delta, where squares turn into absolute values.
    """
    return F.huber_loss(prediction, target, delta=delta)


def gram_loss(student: Tensor, anchor: Tensor) -> Tensor:
    """Keep patches as alike as an earlier teacher saw them, whatever they are: Gram anchoring (DINOv3, Simeoni 2025).

    Parameters: student, anchor (V, N, D) patches of the same views.
    Returns: the mean squared difference between the two (N, N) tables of cosines.
    """
    ours, theirs = (F.normalize(x.float(), dim=-1) for x in (student, anchor))
    return F.mse_loss(ours @ ours.transpose(1, 2), theirs @ theirs.transpose(1, 2))


def position_loss(patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Take the place out of the patches: squared Frobenius norm of their covariance with it, over D.

    Parameters: patches (V, N, D), brought to unit length here; grid (z, y, x), N tokens, x running fastest: places are
    the centres of its cells in [-1, 1]. The covariance is that of all views of all ranks.
    """
    axes = [(torch.arange(n, device=patches.device) + 0.5) * 2 / n - 1 for n in grid]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)  # (N, 3), of mean 0
    rows = F.normalize(patches.float(), dim=-1)
    together = total(torch.einsum("vnd,np->dp", rows, place)) / (rows.shape[0] * rows.shape[1] * rank_and_world()[1])
    return together.square().sum() / rows.shape[-1]


def redundancy_loss(patches: Tensor) -> Tensor:
    """Let no dimension repeat another: the sum of the squared correlations between dimensions, over D.

    Parameters: patches (V, N, D) of the backbone; correlations are those over all tokens of all views and ranks.
    Source: the redundancy term of Barlow Twins (Zbontar et al. 2021) and of VICReg (Bardes et al. 2022), here on
    patches as in VICRegL (Bardes et al. 2022).
    """
    rows = standardise(patches.float().flatten(0, -2))
    r = total(rows.T @ rows) / (len(rows) * rank_and_world()[1])
    return (r.square().sum() - r.diagonal().square().sum()) / r.shape[0]


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Turn teacher logits (..., K) into probabilities that use all prototypes evenly (Sinkhorn-Knopp).

    The first round works on logarithms, so no logit overflows; what it leaves has no column below 1 / (n K), nor a row
    of the next below 1 / n, so the others need none. Source: SwAV (Caron et al. 2020), as in DINOv2.
    """
    q = logits.float().flatten(0, -2) / temperature  # (n, K)
    q = torch.softmax(q - column_logsumexp(q), dim=1)
    for _ in range(iterations - 1):
        q = q / total(q.sum(dim=0, keepdim=True))  # every prototype the same mass, over the rows of all ranks
        q = q / q.sum(dim=1, keepdim=True)  # every row a distribution
    return q.view(logits.shape)


@torch.no_grad()
def centred(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Turn teacher logits (..., K) into probabilities after taking off their running mean (DINO's centring)."""
    return F.softmax((logits.float() - centre) / temperature, dim=-1)


def entropy_ratio(probabilities: Tensor) -> Tensor:
    """Return the mean entropy of (..., K) distributions over log K: 1 when they say nothing."""
    entropy = -torch.special.xlogy(probabilities, probabilities).sum(dim=-1).mean()
    return entropy / torch.log(torch.tensor(float(probabilities.shape[-1])))
