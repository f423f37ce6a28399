"""``python -m aelm.explain``: heat maps of pictures, or the positions that make a pair similar."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("explain")
def main(config: DictConfig) -> int:
    """Runs the command; a sweeper gets the number of files drawn."""
    from aelm.explain.task import run  # here, so misspelt keys are reported before torch is loaded

    return len(run(config))


if __name__ == "__main__":
    main()
