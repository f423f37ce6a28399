"""``python -m aelm.train``: trains a network, tests its best checkpoint and writes scores and figures."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("train")
def main(config: DictConfig) -> float | None:
    """Runs the command. Returns the best monitored value, or the test value of that metric, to a Hydra sweeper."""
    from aelm.train.task import sweep_point  # imported here: misspelt keys are reported before torch loads

    return sweep_point(config)


if __name__ == "__main__":
    main()
