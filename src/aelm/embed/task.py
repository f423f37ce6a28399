"""The task of ``python -m aelm.embed``: pictures to a folder of embeddings."""

from omegaconf import DictConfig

from aelm.data.sources import find_items
from aelm.embed.job import BAD, EmbedCounts, Settings, embed_items
from aelm.files import check_folder


def run(config: DictConfig) -> EmbedCounts:
    """Embeds as configured, and prints the numbers of embedded and unreadable pictures."""
    output = check_folder(config.output)  # before searching for pictures
    items = find_items(config.images, config.pattern, quality=config.quality)
    outcome = embed_items(config.checkpoint, items, output, settings(config), list(config.allow))
    left_out = f"; {outcome.bad} could not be read, see {output / BAD}" if outcome.bad else ""
    print(f"{outcome.embedded} pictures embedded in {output}{left_out}")
    return outcome


def settings(config: DictConfig) -> Settings:
    """The settings of the job."""
    device = config.device if isinstance(config.device, str) else tuple(config.device)
    sizes = config.batch_size, config.shard_size, config.workers
    return Settings(device, *sizes, config.progress, config.precision, config.size, config.camera, config.tracks)
