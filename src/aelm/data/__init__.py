"""Data sets, samplers and loaders. Names are imported lazily, so a sampler does not import Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aelm.data.datamodule import ReIDDataModule
    from aelm.data.dataset import ReIDDataset, collate
    from aelm.data.decoding import BadImageError
    from aelm.data.loader import Loader
    from aelm.data.sampler import IdentitySampler, ShardSampler, ShuffleSampler
    from aelm.data.transforms import Augment, Transforms, recipe

__all__ = [  # written out: the API reference reads it without running the module
    "Augment",
    "BadImageError",
    "IdentitySampler",
    "Loader",
    "ReIDDataModule",
    "ReIDDataset",
    "ShardSampler",
    "ShuffleSampler",
    "Transforms",
    "collate",
    "recipe",
]

_HOMES = {
    "Augment": "transforms",
    "BadImageError": "decoding",
    "IdentitySampler": "sampler",
    "Loader": "loader",
    "ReIDDataModule": "datamodule",
    "ReIDDataset": "dataset",
    "ShardSampler": "sampler",
    "ShuffleSampler": "sampler",
    "Transforms": "transforms",
    "collate": "dataset",
    "recipe": "transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
