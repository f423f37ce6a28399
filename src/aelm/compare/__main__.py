"""``python -m aelm.compare``: the runs of an ablation as tables and plots, with paired differences and their errors."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("compare")
def main(config: DictConfig) -> None:
    """Runs the whole of it."""
    from aelm.compare.task import run  # here, so that a misspelt key is told before torch is loaded

    run(config)


if __name__ == "__main__":
    main()
