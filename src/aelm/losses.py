"""Losses on classifier outputs: identity (cross-entropy), triplet, center, distillation, and those of a library."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from aelm.models.ifcn import check_label_range, precise
from aelm.models.network import StageOutputs, joined
from aelm.types import InputError


class IdentityLoss(nn.Module):
    """Cross-entropy of every classifier, summed.

    Args:
        label_smoothing: Share of the target spread over all identities, in [0, 1) (Szegedy et al. 2016).
        head_weights: One weight for each of A, B, ..., the same at every stage; None for 1.
        weight: Factor of the term.

    Shape:
        outputs of a network, pids ``(B,)`` labels in 0 .. N-1 -> scalar.

    Raises:
        ValueError: If a label is out of range, or the number of weights differs from the number of classifiers.
    """

    def __init__(
        self, label_smoothing: float = 0.0, head_weights: Sequence[float] | None = None, weight: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(f"`label_smoothing` must lie in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.head_weights = None if head_weights is None else tuple(head_weights)
        self.weight = weight

    def forward(self, outputs: StageOutputs, pids: Tensor) -> Tensor:
        total = outputs[0][0].logits.new_zeros((), dtype=torch.float32)
        for heads in outputs:
            weights = self.head_weights or (1.0,) * len(heads)
            if len(weights) != len(heads):
                raise InputError(
                    f"`head_weights` must hold a weight for each of {len(heads)} heads, got {len(weights)}"
                )
            for head, weight in zip(heads, weights, strict=True):
                check_label_range(pids, head.logits.shape[1])
                total = total + weight * F.cross_entropy(
                    head.logits.float(), pids, label_smoothing=self.label_smoothing
                )
        return self.weight * total


class TripletLoss(nn.Module):
    """Batch-hard triplet loss on the joined embedding before the BNNeck (Hermans et al. 2017).

    Args:
        margin: Required difference between the distances to the hardest negative and the hardest positive, in units of
            the embedding; None for the soft margin ``log(1 + exp(positive - negative))``.
        weight: Factor of the term.

    Shape:
        outputs of a network, pids ``(B,)`` -> scalar.
    """

    compares_pictures = True  # so training warns if a step holds no two pictures of one person

    def __init__(self, margin: float | None = 0.3, weight: float = 1.0) -> None:
        super().__init__()
        if margin is not None and margin < 0:
            raise InputError(f"`margin` must be 0 or more, or null for the soft margin; got {margin}")
        self.margin = margin
        self.weight = weight

    def forward(self, outputs: StageOutputs, pids: Tensor) -> Tensor:
        return self.weight * batch_hard_triplet(pooled(outputs), pids, self.margin)


class WeightedTripletLoss(nn.Module):
    """Weighted regularised triplet loss on the joined embedding before the BNNeck (see `weighted_triplet`).

    Args:
        weight: Factor of the term.

    Shape:
        outputs of a network, pids ``(B,)`` -> scalar.
    """

    compares_pictures = True

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, outputs: StageOutputs, pids: Tensor) -> Tensor:
        return self.weight * weighted_triplet(pooled(outputs), pids)


class CenterLoss(nn.Module):
    """Squared distance of the joined embedding before the BNNeck to the center of its identity.

    Centers are no parameters: at each training step those of the identities seen move towards the mean of their
    pictures, over all processes, by the rule of Wen et al.: ``rate * n / (1 + n)`` of the way for ``n`` pictures. They
    start at 0. (BoT starts them at random and trains them with an SGD of their own.)

    Args:
        num_ids: Number N of identities.
        embed_dim: Length D of the concatenated embeddings of all classifiers.
        weight: Factor of the term.
        rate: Share of the way that centers move; Wen's alpha.

    Shape:
        outputs of a network, pids ``(B,)`` labels in 0 .. N-1 -> scalar.

    Reference: Wen et al. 2016, A Discriminative Feature Learning Approach for Deep Face Recognition.
    """

    centers: Tensor

    def __init__(self, num_ids: int, embed_dim: int, weight: float = 0.0005, rate: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("centers", torch.zeros(num_ids, embed_dim))
        self.weight = weight
        self.rate = rate

    def forward(self, outputs: StageOutputs, pids: Tensor) -> Tensor:
        check_label_range(pids, len(self.centers))
        features = pooled(outputs)
        apart = (features - self.centers[pids]).square().sum(1).mean()
        if self.training:
            self._move(features.detach().to(self.centers.dtype), pids)
        return self.weight * apart

    @torch.no_grad()
    def _move(self, features: Tensor, pids: Tensor) -> None:
        with precise(pids.device):
            seen = pids == torch.arange(len(self.centers), device=pids.device)[:, None]  # (N, B)
            sums = seen.to(features.dtype) @ torch.cat([features, torch.ones_like(features[:, :1])], 1)  # (N, D + 1)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(sums)
            total, count = sums[:, :-1], sums[:, -1:]
            self.centers += self.rate * (total - count * self.centers) / (1 + count)


class MetricLoss(nn.Module):
    """A loss of pytorch-metric-learning, or one with the same signature, on the embeddings of all stages.

    These are the concatenated unit embeddings of all classifiers of all stages, after the BNNeck if there is one
    (:func:`aelm.models.network.joined`): what ``join=all`` ranks by. Computed in float32.

    Args:
        loss: Maps embeddings ``(B, D)`` and labels ``(B,)`` to a scalar. A loss without parameters (class weights)
            compares the pictures of a step with each other.
        weight: Factor of the term.

    Shape:
        outputs of a network, pids ``(B,)`` -> scalar.
    """

    def __init__(self, loss: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight
        self.compares_pictures = not any(True for _ in loss.parameters())

    def forward(self, outputs: StageOutputs, pids: Tensor) -> Tensor:
        # Otherwise the library converts the parameters' dtype in place, which breaks DDP.
        wide = {name: parameter.float() for name, parameter in self.loss.named_parameters()}
        with precise(pids.device):
            value: Tensor = functional_call(self.loss, wide, (joined(outputs), pids))
        return self.weight * value


class DistillationLoss(nn.Module):
    """Pulls each classifier's embedding towards the weight average's embedding of the clean picture.

    The average (``ema``) sees each picture without pasted occluders, and nothing is erased from its maps; the network
    sees pasted pictures and erased maps. So A learns the embedding of an occluded person as if unoccluded, and B of
    AELM the embedding before erasing. No gradient flows into the average.

    Args:
        weight: Factor of the term.

    Shape:
        outputs of the network, outputs of the average -> scalar: 1 - cosine, mean over pictures and classifiers.

    Reference: Tarvainen and Valpola 2017 (mean teacher), on embeddings; a choice of this project.
    """

    against_average = True  # the second argument is the average's outputs, not labels

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise InputError(f"`weight` of the distillation must be 0 or more, got {weight}")
        self.weight = weight

    def forward(self, outputs: StageOutputs, targets: StageOutputs) -> Tensor:
        pairs = [pair for own, theirs in zip(outputs, targets, strict=True) for pair in zip(own, theirs, strict=True)]
        apart = [1 - F.cosine_similarity(a.embedding.float(), b.embedding.float().detach()).mean() for a, b in pairs]
        return self.weight * torch.stack(apart).mean()


def pooled(outputs: StageOutputs) -> Tensor:
    """The embeddings before the BNNeck of all classifiers of all stages, concatenated, ``(B, D)``."""
    return torch.cat([head.pooled for heads in outputs for head in heads], 1)


def weighted_triplet(features: Tensor, pids: Tensor) -> Tensor:
    """Mean over anchors of ``log(1 + exp(positives - negatives))``, where each is a weighted mean of distances.

    The weights are a softmax of the distances for positives, and of the negated distances for negatives: all pairs
    count, the hardest most, and there is no margin. Euclidean, in float32. Anchors without a positive or a negative are
    ignored. The formula is the paper's; the authors' code also counts the anchor itself, at distance 0, among its
    positives.

    Args:
        features: ``(B, D)``.
        pids: ``(B,)``.

    Reference: Ye et al. 2021, Deep Learning for Person Re-identification: A Survey and Outlook (AGW), section 4.

    >>> weighted_triplet(torch.tensor([[0.0], [1.0], [3.0], [3.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.1593)
    """
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    # By differences, as in `batch_hard_triplet`; the gradient of a distance of 0 is 0.
    distances = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
    same = pids[:, None] == pids[None, :]
    positive = same & ~torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    low = torch.finfo(wide.dtype).min
    far = distances.masked_fill(~positive, low).softmax(1)
    near = (-distances).masked_fill(same, low).softmax(1)
    valid = positive.any(1) & ~same.all(1)
    loss = F.softplus(((far - near) * distances).sum(1))
    return (loss * valid).sum() / valid.sum().clamp(min=1)


def batch_hard_triplet(features: Tensor, pids: Tensor, margin: float | None = 0.3) -> Tensor:
    """Mean over anchors of ``max(0, hardest positive - hardest negative + margin)``, Euclidean, in float32.

    Anchors without another picture of their identity, or without another identity in the batch, are ignored; if none is
    left the loss is 0. Identical pictures give a gradient of 0, not NaN.

    Args:
        features: ``(B, D)``.
        pids: ``(B,)``.
        margin: None for the soft margin.

    >>> features = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    >>> batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), margin=2.5)
    tensor(0.7500)
    """
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    # By differences: distances from a matrix product lose small values. They only choose pairs, without gradient.
    fixed = wide.detach()
    distances = torch.cdist(fixed, fixed, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
    same = pids[:, None] == pids[None, :]
    itself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    positive = distances.masked_fill(~same, -torch.inf).argmax(1)  # perhaps itself, at 0
    negative = distances.masked_fill(same, torch.inf).argmin(1)
    valid = (same & ~itself).any(1) & ~same.all(1)
    # The norm of a zero difference has gradient 0.
    pulled, pushed = (wide - wide[positive]).norm(dim=1), (wide - wide[negative]).norm(dim=1)
    gap = torch.where(valid, pulled, 0) - torch.where(valid, pushed, 0)
    loss = F.softplus(gap) if margin is None else F.relu(gap + margin)
    return (loss * valid).sum() / valid.sum().clamp(min=1)
