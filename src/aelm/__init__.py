"""aelm: person re-identification with adversarially erased learning.

Names are imported lazily, so ``CoAM`` imports neither Lightning nor Hydra.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aelm.checkpoint import load_model as load_model
    from aelm.data import ReIDDataModule as ReIDDataModule
    from aelm.embed.batches import embed_files as embed_files
    from aelm.embed.embedder import load_embedder as load_embedder
    from aelm.embed.frame import FrameEmbedder as FrameEmbedder
    from aelm.models import AELM as AELM
    from aelm.models import IFCN as IFCN
    from aelm.models import CoAM as CoAM
    from aelm.models import ReIDNetwork as ReIDNetwork
    from aelm.module import ReIDModule as ReIDModule
    from aelm.retrieval import RankMetrics as RankMetrics
    from aelm.retrieval import nearest as nearest
    from aelm.retrieval import rank_metrics as rank_metrics
    from aelm.retrieval import rerank as rerank
    from aelm.search.gallery import Gallery as Gallery
    from aelm.search.store import GalleryStore as GalleryStore

HOMES = {
    "AELM": "aelm.models",
    "CoAM": "aelm.models",
    "FrameEmbedder": "aelm.embed.frame",
    "Gallery": "aelm.search.gallery",
    "GalleryStore": "aelm.search.store",
    "IFCN": "aelm.models",
    "RankMetrics": "aelm.retrieval",
    "ReIDDataModule": "aelm.data",
    "ReIDModule": "aelm.module",
    "ReIDNetwork": "aelm.models",
    "embed_files": "aelm.embed.batches",
    "load_embedder": "aelm.embed.embedder",
    "load_model": "aelm.checkpoint",
    "nearest": "aelm.retrieval",
    "rank_metrics": "aelm.retrieval",
    "rerank": "aelm.retrieval",
}

__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'aelm' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
