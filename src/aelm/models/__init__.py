"""The paper's parts, one file each: IFCN, CoAM, AELM; the backbone, and the network that combines them."""

from aelm.models.aelm import AELM, RandomAELM, TwoHeads, discriminative_region
from aelm.models.backbone import TimmBackbone
from aelm.models.coam import CoAM
from aelm.models.colour_words import ColourWords, StripeHead
from aelm.models.ifcn import IFCN
from aelm.models.network import ReIDNetwork, joined

__all__ = [
    "AELM",
    "IFCN",
    "CoAM",
    "ColourWords",
    "RandomAELM",
    "ReIDNetwork",
    "StripeHead",
    "TimmBackbone",
    "TwoHeads",
    "discriminative_region",
    "joined",
]
