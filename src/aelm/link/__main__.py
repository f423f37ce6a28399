"""``python -m aelm.link``: which tracks of several cameras are the same person."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("link")
def main(config: DictConfig) -> int:
    """Runs the whole of it; a sweeper gets the number of people."""
    from aelm.link.task import run  # here, so that a misspelt key is told before torch is loaded

    return int(run(config).person.max()) + 1


if __name__ == "__main__":
    main()
