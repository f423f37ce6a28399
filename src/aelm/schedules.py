"""How the learning rate moves: a factor for each moment of the training, in epochs, fractions included."""

import math
from collections.abc import Sequence

from aelm.types import InputError


def multistep(
    epoch: float,
    epochs: float,
    milestones: Sequence[float] = (40, 70),
    gamma: float = 0.1,
    warmup_epochs: float = 10,
    warmup_factor: float = 0.01,
) -> float:
    """Linear warm-up, then ``gamma`` at each milestone (BoT's schedule, its defaults).

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
            "the cosine schedule needs a known number of epochs: give `trainer.max_epochs` as well (beside `max_steps` "
            "or `max_time`), or take `schedule=none` or `schedule=multistep`"
        )
    if epoch < warmup_epochs:
        return warmup(epoch, warmup_epochs, warmup_factor)
    share = min((epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9), 1.0)
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * share)) / 2


def constant(epoch: float, epochs: float, warmup_epochs: float = 0, warmup_factor: float = 0.01) -> float:
    """Linear warm-up where asked for, then 1.

    >>> constant(3, 10)
    1.0
    """
    return warmup(epoch, warmup_epochs, warmup_factor)


def warmup(epoch: float, warmup_epochs: float, warmup_factor: float) -> float:
    """From ``warmup_factor`` at epoch 0 linearly to 1 at ``warmup_epochs``, and 1 from there on."""
    if epoch >= warmup_epochs:
        return 1.0
    return warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
