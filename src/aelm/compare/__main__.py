"""``python -m aelm.compare``: compares an ablation's runs in tables and plots, with paired differences and errors."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("compare")
def main(config: DictConfig) -> None:
    """Runs the command."""
    from aelm.compare.task import run  # imported here: misspelt keys are reported before torch loads

    run(config)


if __name__ == "__main__":
    main()
