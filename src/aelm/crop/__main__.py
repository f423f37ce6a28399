"""``python -m aelm.crop``: pictures of people out of videos, given the boxes of their tracks."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("crop")
def main(config: DictConfig) -> int:
    """Runs the whole of it; a sweeper gets the number of crops."""
    from aelm.crop.task import run  # here, so that a misspelt key is told before torch is loaded

    return run(config)


if __name__ == "__main__":
    main()
