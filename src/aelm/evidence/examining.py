"""Lets a network look at shots that it was not trained on, and measures what it looks at."""

import numpy as np
from torch.utils.data import DataLoader

from aelm.data.dataset import one_thread
from aelm.data.loader import check_sockets, default_workers
from aelm.evidence.claims import cells, measure, shrunk
from aelm.evidence.shots import Example, FurtherShots
from aelm.evidence.summary import Found
from aelm.models import ReIDNetwork

BATCH = 32


def examined(network: ReIDNetwork, shots: FurtherShots, workers: int | None = None) -> list[Found]:
    """The measures of every shot at every stage, each head seeing the whole map of the picture's own identity.

    Args:
        network: On the device where it shall run; its heads are IFCN, or have A and B.
        shots: Drawn by loading processes.
        workers: How many of those; None: one a core, at most 8; 0: none.
    """
    count = default_workers(1) if workers is None else workers
    check_sockets(count)
    loader: DataLoader[Example] = DataLoader(shots, BATCH, num_workers=count, worker_init_fn=one_thread)
    found = []
    for batch in loader:
        device = network.mean.device
        outputs = network.explain(batch.image.to(device), batch.label.to(device))
        for stage, heads in enumerate(outputs, 1):
            heats = [head.heatmap.cpu().numpy() for head in heads if head.heatmap is not None]
            hits = [(head.logits.argmax(1).cpu() == batch.label).tolist() for head in heads]
            for i in range(len(batch.label)):
                identity, camera = int(batch.identity[i]), int(batch.camera[i])
                own = [heat[i].astype(np.float64) for heat in heats]
                parts, hidden = batch.parts[i].numpy(), batch.hidden[i].numpy()
                measures = measure(own, cells(parts, ~hidden, own[0].shape), shrunk(hidden, own[0].shape))
                name = f"{identity} camera {camera}"
                found.append(Found(name, identity, stage, tuple(hit[i] for hit in hits), measures))
    return found
