"""ReIDModule: trains and tests any re-ID network with Lightning."""

import copy
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.utilities import dim_zero_cat

from aelm.devices import full_precision
from aelm.models.network import ReIDNetwork, StageOutputs
from aelm.retrieval import RankMetrics, RankResult
from aelm.schedules import training_length
from aelm.types import Batch, InputError

log = logging.getLogger(__name__)

Loss = Callable[[StageOutputs, Tensor], Tensor]
Schedule = Callable[[float, float], float]


NO_AVERAGE = (
    "a loss compares with the moving average of the weights, and none is kept: set `ema`, such as ema=0.995, or choose "
    "another `loss`"
)


def is_against_average(loss: nn.Module) -> bool:
    """Whether a loss takes the outputs of the weight average instead of labels."""
    return bool(getattr(loss, "against_average", False))


class PlainLoss(nn.Module):
    """Wraps a loss function as a module, so all losses are moved, trained and saved in the same way."""

    def __init__(self, function: Loss) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: StageOutputs, pids: Tensor) -> Tensor:
        return self.function(outputs, pids)


def as_modules(losses: Mapping[str, Loss]) -> nn.ModuleDict:
    """Losses by name as modules; functions are wrapped.

    Raises:
        ValueError: If torch rejects a name.
    """
    modules = nn.ModuleDict()
    for name, loss in losses.items():
        try:
            modules[name] = loss if isinstance(loss, nn.Module) else PlainLoss(loss)
        except KeyError as error:
            raise InputError(f"a loss cannot be named {name!r} ({error.args[0]}): take another name") from error
    return modules


class Collected(NamedTuple):
    """The features of a test set after a test.

    Attributes:
        features: ``(n, D)``, each picture once, in the order of ``positions``.
        positions: ``(n,)`` ascending indices in the set, queries first; unreadable pictures are missing.
    """

    features: Tensor
    positions: Tensor


class ReIDModule(pl.LightningModule):
    """Training and exact evaluation of a :class:`aelm.models.ReIDNetwork`.

    Args:
        network: The network to train.
        losses: Terms by name, summed; each maps the network's outputs and the labels ``(B,)`` to a scalar. Parameters
            of a loss are trained like new layers.
        optimizer: Builds the optimizer from parameter groups, such as ``partial(torch.optim.Adam, lr=3.5e-4)``.
        schedule: Learning-rate factor for (epoch, number of epochs); None for 1. The number of epochs is infinite if
            ``max_epochs`` sets no end.
        new_lr_factor: Learning-rate factor outside the backbone.
        decay_norm_and_bias: Whether weight decay also acts on biases and norms.
        frozen_epochs: Number of first epochs in which the backbone is frozen.
        description: Plain data saved in each checkpoint (see :mod:`aelm.checkpoint`).

    Batches are :class:`aelm.types.Batch`; a test set is one loader over queries and gallery, with the metric prefix
    ``datamodule.val_names[i]`` or ``test_names[i]``. If ``datamodule.shared_galleries`` maps it to another set, its
    loader holds only queries, which are ranked against that set's gallery.
    """

    def __init__(
        self,
        network: ReIDNetwork,
        losses: Mapping[str, Loss],
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        schedule: Schedule | None = None,
        new_lr_factor: float = 1.0,
        decay_norm_and_bias: bool = False,
        frozen_epochs: int = 0,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if frozen_epochs < 0 or new_lr_factor < 0:
            raise InputError(
                f"`frozen_epochs` and `new_lr_factor` must not be negative, got {frozen_epochs} and {new_lr_factor}"
            )
        self.network = network
        self.losses = as_modules(losses)
        self.optimizer = optimizer
        self.schedule = schedule
        self.new_lr_factor = new_lr_factor
        self.decay_norm_and_bias = decay_norm_and_bias
        self.frozen_epochs = frozen_epochs
        self.description = dict(description or {})
        self._in_training: Callable[[Tensor, Tensor], StageOutputs] | None = None
        # Outputs of the weight average for pictures (B, 3, H, W); set by the callback that keeps it.
        self.average: Callable[[Tensor], StageOutputs] | None = None
        self.flip = False  # whether evaluation averages the embeddings of each picture and its mirror image
        self.metrics: dict[str, RankMetrics] = {}  # one per test set, created when a test starts
        self.results: dict[str, RankResult] = {}
        self.collected: dict[str, Collected] = {}  # per test set, after a test

    def forward(self, images: Tensor) -> Tensor:
        """Pictures ``(B, 3, H, W)`` to unit-length embeddings ``(B, D)``."""
        embedding = self.network.embed(images)
        return F.normalize(embedding + self.network.embed(images.flip(3)), dim=1) if self.flip else embedding

    def compile_training(self) -> None:
        """Compiles the forward pass of training with ``torch.compile``.

        Evaluation is not compiled: without ``channels_last`` and half precision it gives the same bits as a network
        loaded from the checkpoint.
        """
        self._in_training = torch.compile(self.network.forward)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        outputs: StageOutputs = (self._in_training or self.network)(batch.image, batch.pid)
        targets = self.targets(batch) if self.needs_average else None
        terms = {
            name: loss(outputs, targets if is_against_average(loss) else batch.pid)
            for name, loss in self.losses.items()
        }
        total = torch.stack(list(terms.values())).sum()
        self.log("train/loss", total)  # `prog_bar=True` would wait for the GPU at every step
        if len(terms) > 1:
            self.log_dict({f"train/loss_{name}": term for name, term in terms.items()})
        self._log_heads(outputs, batch.pid)
        return total

    @property
    def needs_average(self) -> bool:
        """Whether a loss compares with the weight average."""
        return any(is_against_average(loss) for loss in self.losses.values())

    def targets(self, batch: Batch) -> StageOutputs:
        """Outputs of the weight average for the clean pictures, or for ``image`` if the batch has none.

        Raises:
            ValueError: If there is no average.
        """
        if self.average is None:
            raise InputError(NO_AVERAGE)
        return self.average(batch.image if batch.clean is None else batch.clean)

    def _log_heads(self, outputs: StageOutputs, pids: Tensor) -> None:
        """Logs each head's accuracy, and each stage's erased fraction of the map."""
        for s, heads in enumerate(outputs, 1):
            for letter, head in zip("abcdefgh", heads, strict=False):
                hits = (head.logits.detach().argmax(1) == pids).float().mean()
                self.log(f"train/accuracy/stage{s}_{letter}", hits)
                if head.mask is not None:
                    self.log(f"train/erased_fraction/stage{s}", head.mask.float().mean())

    def on_train_start(self) -> None:
        sampler = getattr(self.trainer.train_dataloader, "sampler", None)
        if sampler is not None and hasattr(sampler, "step_labels"):  # a sampler of aelm
            self.check_steps(sampler.step_labels())
        if self.schedule is not None and math.isinf(self.trainer.num_training_batches):
            raise InputError(
                "the training loader has no length, and `schedule` needs the number of steps of an epoch: "
                "give the trainer `limit_train_batches`, or schedule=None"
            )
        self.on_train_epoch_start()  # Lightning skips it when a run resumes within an epoch

    def check_steps(self, steps: Sequence[Sequence[int]]) -> None:
        """Checks the labels of some steps before training: warns if a loss finds no pairs in half of them or more.

        Raises:
            ValueError: If a step holds one picture, and the network's batch norms cannot train on it.
        """
        comparing = [name for name, loss in self.losses.items() if getattr(loss, "compares_pictures", False)]
        without = sum(not 1 < len(set(step)) < len(step) for step in steps)
        if comparing and 2 * without >= len(steps) and self.trainer.is_global_zero:
            log.warning(
                "`loss.%s` compares pictures, and %d of %d steps hold no positive or no negative pair: it is 0 there. "
                "Let `sampler.images` and `sampler.identities` be 2 or more, or take loss=identity",
                "`, `loss.".join(comparing), without, len(steps),
            )  # fmt: skip
        if min(map(len, steps), default=0) == 1 and "preprocessing" in self.description:
            self._rehearse()

    def _rehearse(self) -> None:
        """Tries one forward pass of a single picture on a copy of the network."""
        size = [self.description["preprocessing"][key] for key in ("height", "width")]
        images = torch.zeros(1, 3, *size, dtype=torch.uint8, device=self.device)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            try:
                copy.deepcopy(self.network)(images, torch.zeros(1, dtype=torch.int64, device=self.device))
            except ValueError as error:
                raise InputError(
                    f"a step of the sampler holds one picture, which the network cannot train on ({error}): leave the "
                    "last, smaller step out with `sampler.drop_last=true`, or take another number of pictures a step"
                ) from error

    def on_train_epoch_start(self) -> None:
        backbone = self.network.backbone
        if self.frozen_epochs:  # frozen batch norms also keep their statistics
            backbone.train(self.current_epoch >= self.frozen_epochs)
        for module in backbone.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Gradients are computed and then dropped, so DDP reduces the same parameters at every step.
        if self.current_epoch < self.frozen_epochs:
            for parameter in self.network.backbone.parameters():
                parameter.grad = None

    def configure_optimizers(self) -> Any:
        groups = self.parameter_groups()
        factors = [group.pop("factor") for group in groups]
        optimizer = self.optimizer(groups)
        scheduler = LambdaLR(optimizer, [partial(self._rate, factor) for factor in factors])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate(self, factor: float, step: int) -> float:
        """Learning-rate factor of a group at an optimizer step."""
        if self.schedule is None:
            return factor
        trainer = self.trainer
        # Step 0 comes before the loaders exist. `trainer.estimated_stepping_batches` would build them before Lightning
        # knows where a resumed run continues.
        steps = max(math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches), 1) if step else 1
        return factor * self.schedule(step / steps, training_length(trainer.max_epochs, trainer.max_steps, steps))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of backbone and new layers, each with and without weight decay; empty groups are left out.

        A backbone with ``lr_factors`` has one group per factor. ``factor`` scales the learning rate.
        """
        groups: dict[tuple[str, float], list[nn.Parameter]] = {}
        layers: Mapping[str, float] = getattr(self.network.backbone, "lr_factors", {})
        for name, parameter in itertools.chain(self.network.named_parameters(), self.losses.named_parameters("losses")):
            if parameter.requires_grad:
                plain = parameter.ndim <= 1 and not self.decay_norm_and_bias
                place, _, key = name.partition(".")
                known = place == "backbone"
                factor = layers.get(key, 1.0) if known else self.new_lr_factor
                kind = ("backbone" if known else "new") + ("_no_decay" if plain else "")
                groups.setdefault((kind, factor), []).append(parameter)
        return [
            {
                "params": parameters,
                "name": kind if factor == 1 or kind.startswith("new") else f"{kind}_{factor:.3g}",
                "factor": factor,
                **({"weight_decay": 0.0} if kind.endswith("_no_decay") else {}),
            }
            for (kind, factor), parameters in sorted(groups.items())
        ]

    def on_validation_epoch_start(self) -> None:
        self._start_metrics("val", len(self.trainer.num_val_batches))

    def on_test_epoch_start(self) -> None:
        self.results, self.collected = {}, {}
        self._start_metrics("test", len(self.trainer.num_test_batches))

    def _start_metrics(self, kind: str, loaders: int) -> None:
        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, f"{kind}_names", None) or [kind, *(f"{kind}_{i}" for i in range(1, loaders))]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Batch norm statistics differ between training processes; evaluation needs the same ones on all.
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)
        tracks = getattr(getattr(self.trainer, "datamodule", None), "tracks", {})
        self.metrics = {name: RankMetrics(tracks=tracks.get(name)).to(self.device) for name in names}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._collect(batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._collect(batch, dataloader_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Unit-length embeddings ``(B, D)`` of a batch, as in a test; skipped unreadable pictures have no row."""
        images = batch.image
        if not len(images):  # D is asked for with a black picture
            size = getattr(self.network.backbone, "size", (256, 128))
            images = images.new_zeros(1, 3, *size, dtype=torch.uint8)
        with full_precision():
            features: Tensor = self(images)
        return features[: len(batch.image)]

    def _collect(self, batch: Batch, loader: int) -> None:
        if not len(batch.image):  # none of its pictures could be read, and `on_bad_image` allows that
            return
        with full_precision():  # TF32 is for training
            features = self(batch.image)
        metric = list(self.metrics.values())[loader]
        metric.update(features, batch.pid, batch.camid, batch.is_query, batch.position)

    def on_validation_epoch_end(self) -> None:
        self._finish_metrics()

    def on_test_epoch_end(self) -> None:
        shared = getattr(getattr(self.trainer, "datamodule", None), "shared_galleries", {})
        for name, (source, shift) in shared.items():
            self.metrics[name].add_gallery(self.metrics[source], shift)
        self._finish_metrics()
        for name, metric in self.metrics.items():
            self.collected[name] = in_order(metric)

    def _finish_metrics(self) -> None:
        if self.trainer.sanity_checking or getattr(self.trainer, "fast_dev_run", False):  # a few batches: no gallery
            return
        for prefix, metric in self.metrics.items():
            result = self.results[prefix] = metric.compute()
            for name, value in result.scalars().items():
                # All processes hold the same value; the maximum keeps its exact bits, a mean may not.
                shown = f"{prefix}/{name}" == "val/rank1"
                self.log(f"{prefix}/{name}", value, prog_bar=shown, sync_dist=True, reduce_fx="max")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["aelm"] = self.description


def in_order(metric: RankMetrics) -> Collected:
    """The items that a metric collected on all processes, each once.

    If tracks are ranked, an item is a track, at the position of its first picture.
    """
    with metric.sync_context():
        index, is_query = dim_zero_cat(metric.index), dim_zero_cat(metric.is_query)
        sides = [metric.items(side) for side in (is_query, ~is_query)]
    return Collected(torch.cat([features for features, _ in sides]), torch.cat([index[rows] for _, rows in sides]))
