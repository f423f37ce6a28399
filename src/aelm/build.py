"""From a config to the parts it describes."""

from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from aelm.data import Loader, ReIDDataModule, Transforms


def built(node: Any) -> Any:
    """What a ``_target_`` node describes; an error of the part itself arrives as the part raised it."""
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, OSError, RuntimeError)):
            raise error.__cause__ from None
        raise


def build_data(dataset: DictConfig, transform: Transforms, sampler: Any, seed: int) -> ReIDDataModule:
    """The data module that a config describes."""
    missing = sorted(str(key) for key in OmegaConf.missing_keys(dataset))
    if missing:
        raise ValueError(f"`dataset` lacks {', '.join(missing)}: choose one, such as dataset=market1501")
    return ReIDDataModule(
        built(dataset.benchmarks),
        transform,
        sampler,
        train=None if dataset.train is None else list(dataset.train),
        test=None if dataset.test is None else list(dataset.test),
        val_fraction=dataset.val_fraction,
        loader=Loader(
            workers=dataset.workers,
            test_batch_size=dataset.test_batch_size,
            cache=dataset.cache,
            on_bad_image=dataset.on_bad_image,
        ),
        seed=seed,
    )
