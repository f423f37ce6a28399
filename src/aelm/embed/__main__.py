"""``python -m aelm.embed``: pictures to a folder of embeddings."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("embed")
def main(config: DictConfig) -> int:
    """Runs the command; a sweeper gets the number of embedded pictures."""
    from aelm.embed.task import run  # here, so misspelt keys are reported before torch is loaded

    return run(config).embedded


if __name__ == "__main__":
    main()
