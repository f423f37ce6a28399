"""The whole network: a backbone, with attention (CoAM) and classifiers (IFCN or AELM) on each of its last stages."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from aelm.models.ifcn import check_label_range
from aelm.models.maps import as_maps, channels_of, evaluation
from aelm.types import IMAGENET_MEAN, IMAGENET_STD, HeadOutput, InputError

StageOutputs = tuple[tuple[HeadOutput, ...], ...]
Join = Literal["deepest", "all"]


class Normalised(NamedTuple):
    """Mean and standard deviation of each colour of RGB / 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class ReIDNetwork(nn.Module):
    """Maps pictures to identities in training, and to one embedding each in use.

    Attention and classifiers (the cascade) are applied to each map of the backbone as a side branch: the next stage of
    the backbone reads the plain map. The paper states that the cascade is applied to outputs of different layers; which
    layers, and that it does not feed back, is a choice of this project.

    Args:
        backbone: Any module that turns normalised pictures ``(B, 3, H, W)`` into one or several maps ``(B, C, H, W)``.
            It may state the list ``channels`` of its maps, the ``size`` (H, W) that it is limited to, and the ``mean``
            and ``std`` of its pictures.
        num_ids: Number N of training identities.
        coam: Builds attention for a map, given its channels, such as ``partial(CoAM, reduction=16)``.
        aelm: Builds classifiers for a map, given its channels and N, such as ``AELM`` or ``IFCN``.
        mean: Mean of each colour of RGB / 255 that uint8 pictures are normalised with; None: the backbone's ``mean``,
            or ImageNet's where it has none.
        std: Standard deviation likewise.
        join: Which stages form the embedding: ``deepest``: the last one, the others only help training; ``all``: every
            stage. The abstract does not say; ``docs/results.md`` compares both.

    Shape:
        images ``(B, 3, H, W)``: uint8 RGB, normalised here; or float, already normalised.

    Raises:
        ValueError: If ``join`` is unknown.

    >>> from aelm.models import AELM, CoAM
    >>> trunk = nn.Conv2d(3, 16, 8, stride=8)
    >>> network = ReIDNetwork(trunk, num_ids=5, coam=CoAM, aelm=AELM)
    >>> network.embed(torch.zeros(2, 3, 64, 32, dtype=torch.uint8)).shape
    torch.Size([2, 1024])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_ids: int,
        coam: Callable[[int], nn.Module],
        aelm: Callable[[int, int], nn.Module],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        join: Join = "deepest",
    ) -> None:
        super().__init__()
        if join not in get_args(Join):
            raise InputError(f"`join` must be one of {', '.join(get_args(Join))}, got {join!r}")
        channels = channels_of(backbone)
        self.normalised = Normalised(
            colours(getattr(backbone, "mean", IMAGENET_MEAN) if mean is None else mean),
            colours(getattr(backbone, "std", IMAGENET_STD) if std is None else std),
        )
        self.backbone = backbone
        self.num_ids = num_ids
        self.join: Join = join
        self.attention = nn.ModuleList(coam(depth) for depth in channels)
        self.heads = nn.ModuleList(aelm(depth, num_ids) for depth in channels)
        for name, values in self.normalised._asdict().items():
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, pids: Tensor | None = None, *, explain: bool = False) -> StageOutputs:
        """Output of each classifier, ``outputs[stage][head]``, shallow to deep and A before B.

        Args:
            images: ``(B, 3, H, W)``.
            pids: ``(B,)`` labels 0 .. N-1, for heat maps and erasing.
            explain: Whether to return heat maps, and what AELM would erase, also without ``pids``.
        """
        stages = zip(self.features(images), self.attention, self.heads, strict=True)
        return tuple(cascade(head, attention, maps, pids, explain) for maps, attention, head in stages)

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """The backbone's maps ``(B, C_i, H_i, W_i)``."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype).sub_(self.mean).div_(self.std)
        return as_maps(self.backbone(images))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Unit embeddings ``(B, D)``: the concatenated unit embeddings of the classifiers that `join` selects.

        In evaluation mode; the mode of the network is restored. On a GPU torch's settings for TF32 hold, while
        :func:`aelm.load_embedder` computes in full float32.
        """
        if self.training:
            with evaluation(self):
                return self.embed(images)
        return joined(tuple(as_heads(head(attention(maps))) for maps, attention, head in self.in_use(images)))

    def in_use(self, images: Tensor) -> list[tuple[Tensor, nn.Module, nn.Module]]:
        """The stages that form the embedding: their maps ``(B, C_i, H_i, W_i)``, attention and classifiers."""
        stages = list(zip(self.features(images), self.attention, self.heads, strict=True))
        return stages[-1:] if self.join == "deepest" else stages

    @torch.no_grad()
    def explain(self, images: Tensor, pids: Tensor | None = None) -> StageOutputs:
        """Heat maps of each classifier and what AELM would erase, ``outputs[stage][head]``, in evaluation mode.

        Each has a ``heatmap`` ``(B, H, W)``; with :class:`aelm.models.AELM` the second has a ``mask`` of the positions
        that training would erase. The mode of the network is restored.

        Args:
            images: ``(B, 3, H, W)``.
            pids: ``(B,)`` labels 0 .. N-1 of the heat maps; None for the best identity of each stage's A.
        """
        if pids is not None:
            check_label_range(pids.cpu(), self.num_ids)
        with evaluation(self):
            outputs: StageOutputs = self(images, pids, explain=True)
        return outputs


def colours(values: Any) -> tuple[float, ...]:
    """A number for each colour, also from a tensor such as ``(1, 3, 1, 1)``."""
    return tuple(values.flatten().tolist() if isinstance(values, Tensor) else values)


def cascade(
    head: nn.Module, attention: nn.Module, maps: Tensor, pids: Tensor | None, explain: bool
) -> tuple[HeadOutput, ...]:
    """Attention, then classifiers, on ``maps`` (B, C, H, W); AELM with ``erase=raw`` applies attention again."""
    if getattr(head, "erase", "attended") == "raw" and not isinstance(attention, nn.Identity):
        return as_heads(head(maps, pids, explain=explain, attention=attention))
    return as_heads(head(attention(maps), pids, explain=explain))


def as_heads(output: HeadOutput | tuple[HeadOutput, ...]) -> tuple[HeadOutput, ...]:
    """The outputs of a stage's classifiers as a tuple, also for a single one."""
    return (output,) if isinstance(output, HeadOutput) else output


def joined(outputs: StageOutputs) -> Tensor:
    """Concatenated unit embeddings of all classifiers of some stages, scaled to unit length, ``(B, D)``."""
    return unit(torch.cat([unit(head.embedding.float()) for stage in outputs for head in stage], 1))


def unit(vectors: Tensor) -> Tensor:
    """``vectors`` (B, D) scaled to length 1, like ``F.normalize``, whose ONNX export OpenCV 4 cannot read."""
    return torch.div(vectors, vectors.norm(dim=1, keepdim=True).clamp_min(1e-12))
