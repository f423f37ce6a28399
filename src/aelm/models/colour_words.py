"""Colours in stripes: what the starter model sees, and how it compares it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelm.models.ifcn import precise
from aelm.models.layouts import PooledHead
from aelm.models.maps import as_maps, channels_of
from aelm.types import IMAGENET_MEAN, IMAGENET_STD, InputError

# Of linear sRGB to XYZ, each row divided by the white of daylight (D65).
XYZ = torch.tensor([[0.4338, 0.3764, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1095, 0.8727]])[:, :, None, None]
TINY = 1e-12


class ColourWords(nn.Module):
    """A backbone: which of ``words`` colours each place shows, as shares that add up to 1.

    The mean of 4 x 4 pixels belongs to the words near its colour in CIELAB, in which equal distances look equally
    different. Light counts a third, since it differs most between cameras, and the picture's
    own tint is taken out.

    Args:
        words: Number K of colours. They start as a fixed random set of RGB and can be trained.
        softness: Standard deviation of a word, in units of CIELAB.
        backbone: A network whose maps are to come behind that of the words; None for none.

    Shape:
        images ``(B, 3, H, W)``, RGB in 0..1 -> a map ``(B, K, H / 8, W / 8)``, and those of ``backbone``.

    Raises:
        ValueError: If ``words`` is below 1 or ``softness`` is not above 0.

    Reference: Zheng et al. 2015, Scalable Person Re-identification, has such words (colour names, hard) in stripes.

    >>> ColourWords(words=8)(torch.rand(2, 3, 128, 64))[0].sum(1).allclose(torch.ones(2, 16, 8))
    True
    """

    inner_mean: Tensor
    inner_std: Tensor
    xyz: Tensor
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, words: int = 128, softness: float = 9.0, backbone: nn.Module | None = None) -> None:
        super().__init__()
        if words < 1 or softness <= 0:
            raise InputError(f"`words` must be at least 1 and `softness` above 0, got {words} and {softness}")
        self.backbone = backbone
        self.channels = [words, *([] if backbone is None else channels_of(backbone))]
        for name, usual in (("inner_mean", IMAGENET_MEAN), ("inner_std", IMAGENET_STD)):
            values = getattr(backbone, name.removeprefix("inner_"), usual)
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.softness = softness
        colours = torch.rand(words, 3, 1, 1, generator=torch.Generator().manual_seed(0))
        # A buffer, since copying it to a GPU would make each step wait.
        self.register_buffer("xyz", XYZ.clone(), persistent=False)
        self.words = nn.Parameter(lab(colours).flatten(1))

    def forward(self, images: Tensor) -> list[Tensor]:
        with precise(images.device):
            words = self.words.float()
            seen = lab(untinted(F.avg_pool2d(images.float(), 4)), self.xyz)  # (B, 3, H / 4, W / 4)
            # Minus half the squared distance in standard deviations, up to what all words share; channels last: faster.
            near = F.linear(seen.permute(0, 2, 3, 1), words, -words.square().sum(1) / 2) / self.softness**2
            maps = [F.avg_pool2d(torch.softmax(near, 3).permute(0, 3, 1, 2), 2)]
        if self.backbone is not None:
            maps += as_maps(self.backbone((images - self.inner_mean) / self.inner_std))
        return maps


class StripeHead(PooledHead):
    """Compares pictures stripe by stripe: square roots of the means of horizontal stripes, then one linear layer.

    The roots (Hellinger's distance of histograms) keep a large plain garment from drowning all else; numbers below 0
    keep their sign. The middle columns count more: at the edges there is background. Knows no identities.

    Args:
        channels: Depth C of the incoming map.
        num_ids: Taken as of every head; not used.
        embed_dim: Number D of an embedding's values.
        stripes: How many there are, S.
        overlap: How far a stripe reaches into its neighbours: standard deviation of its weights, in stripes.
        window: Standard deviation of the weights of columns, in half widths of the picture.

    Shape:
        features ``(B, C, H, W)`` -> :class:`aelm.types.HeadOutput`, as of :class:`PooledHead`.

    Raises:
        ValueError: If a number is not above 0.
    """

    def __init__(
        self, channels: int, num_ids: int = 0, embed_dim: int = 256, *, stripes: int = 16, overlap: float = 0.3,
        window: float = 0.35,
    ) -> None:  # fmt: skip
        given = {"channels": channels, "embed_dim": embed_dim, "stripes": stripes, "overlap": overlap, "window": window}
        for name, value in given.items():
            if value <= 0:
                raise InputError(f"`{name}` must be above 0, got {value}")
        super().__init__(nn.Linear(stripes * channels, embed_dim))
        self.stripes, self.overlap, self.window = stripes, overlap, window

    def weights(self, features: Tensor) -> Tensor:
        """What each position of ``features`` counts in each stripe: ``(S, H, W)``, which adds up to 1 a stripe."""
        height, width = features.shape[2:]
        rows = (torch.arange(height, device=features.device) + 0.5) * (self.stripes / height)
        middles = torch.arange(self.stripes, device=features.device) + 0.5
        columns = (torch.arange(width, device=features.device) + 0.5) * (2 / width) - 1
        down = torch.softmax(-(((rows - middles[:, None]) / self.overlap) ** 2) / 2, 1)  # (S, H)
        across = torch.softmax(-((columns / self.window) ** 2) / 2, 0)  # (W,)
        return down[:, :, None] * across

    def pooled(self, features: Tensor) -> Tensor:
        """Roots of the stripes' means, ``(B, S C)``."""
        means = torch.einsum("bchw,shw->bsc", features.float(), self.weights(features))
        return means.flatten(1) / size_roots(means)

    def pooled_maps(self, features: Tensor) -> Tensor:
        """What each position brings to a root, ``(B, S C, H, W)``: the means of these shares are ``pooled``."""
        weights = self.weights(features)
        shares = (features.float()[:, None] * (weights * weights[0].numel())[:, None]).flatten(1, 2)  # (B, S C, H, W)
        return shares / size_roots(shares.mean((2, 3)))[:, :, None, None]


def size_roots(values: Tensor) -> Tensor:
    """Square roots of how large values are, ``(B, ...)`` -> ``(B, n)``, above 0."""
    return values.flatten(1).abs().clamp_min(TINY).sqrt()


def untinted(images: Tensor) -> Tensor:
    """Pictures ``(B, 3, H, W)`` in 0..1 whose mean is grey, as bright as it was: the tint of a camera's light is gone.

    >>> untinted(torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)).flatten()
    tensor([0.4000, 0.4000, 0.4000])
    """
    mean = images.mean((2, 3), keepdim=True).clamp_min(0.02)  # near black there is no tint
    return (images * (mean.mean(1, keepdim=True) / mean)).clamp(0.0, 1.0)


def lab(images: Tensor, xyz: Tensor = XYZ) -> Tensor:
    """CIELAB of sRGB in 0..1, ``(B, 3, H, W)``, its lightness times 0.35; ``xyz`` is ``XYZ`` on the pictures' device.

    >>> lab(torch.ones(1, 3, 1, 1)).flatten().round().tolist()
    [35.0, 0.0, 0.0]
    """
    linear = torch.where(images > 0.04045, ((images.clamp_min(0.0) + 0.055) / 1.055) ** 2.4, images / 12.92)
    x, y, z = F.conv2d(linear, xyz.to(linear.dtype)).unbind(1)
    x, y, z = (torch.where(v > 0.008856, v.clamp_min(TINY) ** (1 / 3), 7.787 * v + 16 / 116) for v in (x, y, z))
    return torch.stack([40.6 * y - 5.6, 500 * (x - y), 200 * (y - z)], 1)
