"""What ``python -m aelm.embed`` does: pictures to a folder of embeddings."""

from omegaconf import DictConfig

from aelm.data.sources import find_items
from aelm.embed.job import BAD, EmbedCounts, Settings, embed_items
from aelm.files import check_folder


def run(config: DictConfig) -> EmbedCounts:
    """Embeds as ``config`` says, and prints how many pictures went in and how many could not be read."""
    output = check_folder(config.output)  # before pictures are looked for
    items = find_items(config.images, config.pattern, quality=config.quality)
    outcome = embed_items(config.checkpoint, items, output, settings(config), list(config.allow))
    left_out = f"; {outcome.bad} could not be read, see {output / BAD}" if outcome.bad else ""
    print(f"{outcome.embedded} pictures embedded in {output}{left_out}")
    return outcome


def settings(config: DictConfig) -> Settings:
    """How the job runs."""
    device = config.device if isinstance(config.device, str) else tuple(config.device)
    sizes = config.batch_size, config.shard_size, config.workers
    return Settings(device, *sizes, config.progress, config.precision, config.size, config.camera, config.tracks)
