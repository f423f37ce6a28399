"""``python -m aelm.evaluate``: tests a checkpoint on its own or another data set, or scores stored features."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("evaluate")
def main(config: DictConfig) -> float:
    """Runs the command. Returns the mAP of the first test set (to a Hydra sweeper)."""
    from aelm.evaluate.task import first_map, run  # imported here: misspelt keys are reported before torch loads

    return first_map(run(config))


if __name__ == "__main__":
    main()
