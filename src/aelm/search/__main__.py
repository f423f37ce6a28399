"""``python -m aelm.search``: the pictures of a gallery that are most similar to a query."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("search")
def main(config: DictConfig) -> int:
    """Runs the whole of it; a sweeper gets the number of results."""
    from aelm.search.task import run  # here, so that a misspelt key is told before torch is loaded

    return sum(len(found.hits) for found in run(config))


if __name__ == "__main__":
    main()
