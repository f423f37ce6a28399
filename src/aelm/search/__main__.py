"""``python -m aelm.search``: finds the pictures of a gallery that are most similar to a query."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("search")
def main(config: DictConfig) -> int:
    """Runs the command. Returns the number of results (to a Hydra sweeper)."""
    from aelm.search.task import run  # imported here: misspelt keys are reported before torch loads

    return sum(len(found.hits) for found in run(config))


if __name__ == "__main__":
    main()
