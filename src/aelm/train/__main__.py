"""``python -m aelm.train``: trains a network, tests its best checkpoint, and draws what came out."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("train")
def main(config: DictConfig) -> float | None:
    """Runs the whole of it; a sweeper gets the best value of the monitored metric, or of its twin on the test set."""
    from aelm.train.task import sweep_point  # here, so that a misspelt key is told before torch is loaded

    return sweep_point(config)


if __name__ == "__main__":
    main()
