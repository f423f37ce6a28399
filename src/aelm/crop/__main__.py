"""``python -m aelm.crop``: cuts pictures of people out of videos, given the boxes of their tracks."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("crop")
def main(config: DictConfig) -> int:
    """Runs the command. Returns the number of crops (to a Hydra sweeper)."""
    from aelm.crop.task import run  # imported here: misspelt keys are reported before torch loads

    return run(config)


if __name__ == "__main__":
    main()
