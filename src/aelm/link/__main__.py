"""``python -m aelm.link``: decides which tracks of several cameras are the same person."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("link")
def main(config: DictConfig) -> int:
    """Runs the command. Returns the number of people (to a Hydra sweeper)."""
    from aelm.link.task import run  # imported here: misspelt keys are reported before torch loads

    return int(run(config).person.max()) + 1


if __name__ == "__main__":
    main()
