"""``python -m aelm.explain``: what a model looks at in pictures, or which positions make a pair similar."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("explain")
def main(config: DictConfig) -> int:
    """Runs the whole of it; a sweeper gets the number of drawn files."""
    from aelm.explain.task import run  # here, so that a misspelt key is told before torch is loaded

    return len(run(config))


if __name__ == "__main__":
    main()
