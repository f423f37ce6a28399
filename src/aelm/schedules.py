"""Schedules of the learning rate and of erasing: a factor for each (fractional) epoch of the training."""

import math
from collections.abc import Sequence

from aelm.types import InputError


def training_length(max_epochs: int | None, max_steps: int, steps: int) -> float:
    """Length of a training in epochs: the first that ends it of a Trainer's ``max_epochs`` and ``max_steps``.

    Args:
        max_epochs: None or negative for no limit.
        max_steps: Optimizer steps; negative for no limit.
        steps: Optimizer steps of an epoch.

    >>> training_length(120, -1, 200), training_length(120, 5000, 200), training_length(-1, -1, 200)
    (120.0, 25.0, inf)
    """
    epochs = math.inf if max_epochs is None or max_epochs < 0 else float(max(max_epochs, 1))
    return epochs if max_steps < 0 else min(epochs, max_steps / steps)


def multistep(
    epoch: float,
    epochs: float,
    milestones: Sequence[float] = (40, 70),
    gamma: float = 0.1,
    warmup_epochs: float = 10,
    warmup_factor: float = 0.01,
) -> float:
    """Linear warm-up, then times ``gamma`` at each milestone (BoT's schedule and defaults).

    >>> [round(multistep(e, 120), 4) for e in (0, 5, 10, 40, 70)]
    [0.01, 0.505, 1.0, 0.1, 0.01]
    """
    return warmup(epoch, warmup_epochs, warmup_factor) * gamma ** sum(epoch >= m for m in milestones)


def cosine(
    epoch: float, epochs: float, final_factor: float = 0.0, warmup_epochs: float = 10, warmup_factor: float = 0.01
) -> float:
    """Linear warm-up, then half a cosine from 1 down to ``final_factor`` at the last epoch.

    >>> [round(cosine(e, 110), 4) for e in (0, 10, 60, 110)]
    [0.01, 1.0, 0.5, 0.0]

    Raises:
        ValueError: If ``epochs`` is infinite: a cosine needs an end.
    """
    if not math.isfinite(epochs):
        raise InputError(
            "the cosine schedule needs a known end: give `trainer.max_epochs` or `+trainer.max_steps` as well (beside "
            "`max_time`), or take `schedule=none` or `schedule=multistep`"
        )
    if epoch < warmup_epochs:
        return warmup(epoch, warmup_epochs, warmup_factor)
    share = min((epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9), 1.0)
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * share)) / 2


def constant(epoch: float, epochs: float, warmup_epochs: float = 0, warmup_factor: float = 0.01) -> float:
    """Optional linear warm-up, then 1.

    >>> constant(3, 10)
    1.0
    """
    return warmup(epoch, warmup_epochs, warmup_factor)


def ramp(epoch: float, epochs: float, start: float = 0.0, full: float = 0.3, stop: float = 0.9) -> float:
    """Rises from 0 at ``start`` to 1 at ``full``; 0 again from ``stop`` on. All three are shares of the training.

    >>> [round(ramp(e, 20, start=0.1, full=0.5, stop=0.9), 2) for e in (0, 2, 6, 10, 17, 18)]
    [0.0, 0.0, 0.5, 1.0, 1.0, 0.0]

    Raises:
        ValueError: If the shares do not rise within 0 .. 1.
    """
    if not 0 <= start <= full <= 1 or not start < stop <= 1:
        raise InputError(
            f"a ramp must rise from `start` to `full` and end at a later `stop`, in shares of the training, "
            f"got {start}, {full} and {stop}: it would never erase"
        )
    share = epoch / epochs
    if not start <= share < stop:
        return 0.0
    return 1.0 if share >= full else (share - start) / (full - start)


def warmup(epoch: float, warmup_epochs: float, warmup_factor: float) -> float:
    """Rises linearly from ``warmup_factor`` at epoch 0 to 1 at ``warmup_epochs``, then stays 1.

    Raises:
        ValueError: If one of them is negative.
    """
    if not (warmup_epochs >= 0 and warmup_factor >= 0):
        raise InputError(
            f"`warmup_epochs` and `warmup_factor` must not be negative, got {warmup_epochs} and {warmup_factor}"
        )
    if epoch >= warmup_epochs:
        return 1.0
    return warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
