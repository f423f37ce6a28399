"""What two processes do together, started by torchrun with DATA OUT OVERRIDES...; the first prints JSON."""

import json
import sys
from functools import partial

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_module
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from aelm.command import schema
from aelm.evaluate import task as evaluate
from aelm.losses import IdentityLoss
from aelm.models import AELM, IFCN, CoAM, ReIDNetwork
from aelm.train import task as train
from tests.runs import watched_by


def gradients():
    """Largest difference, relative to the largest value, between the gradients of two processes and of one."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    # Nor is anything taken from other pictures of a batch, which are others where the batch is shared out.
    aelm = partial(AELM, embed_dim=6, fill="drop")
    network = ReIDNetwork(trunk, 5, partial(CoAM, reduction=2), aelm).double()
    for module in network.modules():  # what differs between processes is left out: statistics of a batch
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    images = torch.rand(8, 3, 32, 16, dtype=torch.float64)
    pids = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    loss = IdentityLoss(label_smoothing=0.1)
    loss(network(images, pids), pids).backward()
    whole = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    network.zero_grad()
    together = DistributedDataParallel(network)
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    loss(together(images[half], pids[half]), pids[half]).backward()
    parts = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(whole, parts, strict=True))


def heat():
    """Largest difference of heat maps behind a synchronised BNNeck, of two halves of a batch, to those of the whole.

    Only a GPU can run the neck itself; what the maps take from it, the statistics of the batch, is asked for alone.
    """
    torch.manual_seed(0)
    head = IFCN(6, 5, 4, neck=True).double()
    maps, pids = torch.rand(8, 4, 3, 2, dtype=torch.float64), torch.arange(8) % 5
    whole = head.heatmaps(maps, maps.mean((2, 3)), pids)
    head.neck = nn.SyncBatchNorm.convert_sync_batchnorm(head.neck)
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    part = head.heatmaps(maps[half], maps[half].mean((2, 3)), pids[half])
    return float((part - whole[half]).abs().max() / whole.abs().max())


class Watch(pl.Callback):
    """Whether weights and statistics differed between the processes in a training step, and in validation.

    And whether the parameters of losses did, and which of them moved.
    """

    def __init__(self):
        self.training, self.validation, self.losses, self.moved = [], [], [], set()

    def on_train_start(self, trainer, pl_module):
        self.first = {name: value.clone() for name, value in pl_module.losses.state_dict().items()}

    @staticmethod
    def differ(module):
        state = torch.cat([value.double().flatten() for value in module.state_dict().values()])
        states = [torch.empty_like(state) for _ in range(2)]
        dist.all_gather(states, state)
        return not torch.equal(*states)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.training.append(self.differ(pl_module))
        self.losses.append(self.differ(pl_module.losses))
        now = pl_module.losses.state_dict()
        self.moved |= {name for name, value in self.first.items() if not torch.equal(value, now[name])}

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 0:
            self.validation.append(self.differ(pl_module))


def main():
    data, out, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    schema.register()
    dist.init_process_group("gloo")
    found = {"gradients": gradients(), "heat maps": heat(), "rank": dist.get_rank()}
    watch = watched_by(Watch())
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    with initialize_config_module("aelm.conf", version_base="1.3"):
        # As with a run named by the time: each process has another name for it.
        name = f"name=test{dist.get_rank() or ''}", f"run_dir={out}/torchrun{dist.get_rank() or ''}"
        config = compose("train", [f"data_dir={data}", *overrides, *two, *name])
        found["train"] = train.run(config)
        best = f"checkpoint={out}/torchrun/checkpoints/best.ckpt"
        tested = [best, *two, "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", f"output={out}/two"]
        found["evaluate"] = evaluate.run(compose("evaluate", [*tested, "figures=false"]))
    found["statistics differ"] = {"training": any(watch.training), "validation": any(watch.validation)}
    found["losses"] = {"differ": any(watch.losses), "moved": sorted(watch.moved)}
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
