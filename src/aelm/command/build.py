"""Builds the objects that a config describes."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from aelm.checkpoint import build
from aelm.data import Loader, ReIDDataModule, Transforms
from aelm.types import InputError

log = logging.getLogger(__name__)


# Trainer keys that shorten loops: no checkpoint is written, or queries are ranked against a part of the gallery.
SHORTENING = ("fast_dev_run", "limit_val_batches", "limit_test_batches", "overfit_batches")


def check_loops(trainer: DictConfig) -> None:
    """Raises ValueError if a key shortens loops that must run in full."""
    for key in SHORTENING:
        if trainer.get(key):
            raise InputError(
                f"`trainer.{key}` would rank against a part of a gallery, or write no checkpoint. For a short trial: "
                "`trainer.max_epochs=1 trainer.limit_train_batches=10`, and a smaller data set"
            )


def built(node: Any, allow: Sequence[str] | None = None) -> Any:
    """Builds the object of a config node, with interpolations resolved; see :func:`aelm.checkpoint.build`."""
    return build(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node, allow)


def built_optimizer(node: Any, lr_scale: str, times: int) -> Any:
    """The factory of the optimizer, with its learning rate scaled by ``lr_scale`` and logged.

    Args:
        node: An optimizer's config, ``_partial_``.
        lr_scale: ``"none"`` keeps the learning rate. ``"linear"`` multiplies it by ``times`` (Goyal et al. 2017).
        times: Batches in one optimizer step: number of processes x accumulated batches.

    Raises:
        ValueError: If ``lr_scale`` is another word, there is no ``lr`` to scale, or the optimizer rejects its values.
    """
    if lr_scale not in ("none", "linear"):
        raise InputError(f"`lr_scale` must be 'none' or 'linear', got {lr_scale!r}")
    optimizer = built(node)
    try:  # checked here, before the data is read and the network is built
        optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))], "name": "new"}])
    except (TypeError, ValueError) as error:
        raise InputError(f"`optimizer`: {node.get('_target_')} rejects its configuration: {error}") from error
    if times == 1:
        return optimizer
    if lr_scale == "none":
        log.info("an optimizer step takes %d batches, its learning rate is as written (lr_scale=none)", times)
        return optimizer
    if "lr" not in node:
        raise InputError("`lr_scale=linear` multiplies `optimizer.lr`, which is not set: set it")
    log.info("learning rate %g x %d batches an optimizer step = %g (lr_scale=linear)", node.lr, times, node.lr * times)
    return partial(optimizer, lr=node.lr * times)


def build_data(
    dataset: DictConfig, transform: Transforms, sampler: Any, seed: int, make: Callable[[Any], Any] = built
) -> ReIDDataModule:
    """The data module that a config describes; ``make`` turns its ``benchmarks`` into readers."""
    missing = sorted(str(key) for key in OmegaConf.missing_keys(dataset))
    if missing:
        raise InputError(f"`dataset` lacks {', '.join(missing)}: choose one, such as dataset=market1501")
    return ReIDDataModule(
        make(dataset.benchmarks),
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


def training_of(config: DictConfig, trained: Mapping[str, Any], pictures: Mapping[str, Any]) -> dict[str, Any]:
    """The training configuration in a checkpoint: data set, transform, sampler, seed.

    Files from other projects, and checkpoints without a configuration, give only the size of pictures.

    Args:
        config: Of a command with ``checkpoint`` and ``dataset``.
        trained: The configuration of the training; empty if the file does not hold it.
        pictures: Their height and width, and what else :func:`aelm.data.recipe` must know of them.

    Raises:
        ValueError: If no data set is given to test on.
    """
    if trained:
        return dict(trained)
    if OmegaConf.is_missing(config.dataset, "benchmarks"):
        raise InputError(f"{config.checkpoint} does not say what to test on: choose it, such as dataset=market1501")
    return {"dataset": {}, "transform": {"_target_": "aelm.data.recipe", **pictures}, "seed": 0}


def build_test_data(config: DictConfig, trained: Mapping[str, Any]) -> ReIDDataModule:
    """The test data: the data set of the checkpoint, with the command line's values over it."""
    chosen: Any = OmegaConf.to_container(config.dataset)
    given = {key: value for key, value in chosen.items() if value != "???"}
    own = "benchmarks" in given
    before = {key: value for key, value in trained["dataset"].items() if not own or key not in ("train", "test")}
    home = trained["data_dir"] if not own else os.environ.get("AELM_DATA", "data")
    whole = OmegaConf.create({"data_dir": config.data_dir or home, "dataset": {**before, **given}})
    # Tests use neither the sampler nor the extra augmentation of the training.
    told = partial(built, allow=list(config.allow))
    transform = told({key: value for key, value in trained["transform"].items() if key != "extra"})
    return build_data(whole.dataset, transform, None, trained["seed"], make=built if own else told)
