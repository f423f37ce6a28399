"""``python -m aelm.evaluate``: tests a checkpoint, on its own data set or another, or scores ready features."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("evaluate")
def main(config: DictConfig) -> float:
    """Runs the whole of it; a sweeper gets the mAP of the first test set."""
    from aelm.evaluate.task import first_map, run  # here, so that a misspelt key is told before torch is loaded

    return first_map(run(config))


if __name__ == "__main__":
    main()
