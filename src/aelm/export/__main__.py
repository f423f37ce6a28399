"""``python -m aelm.export``: a checkpoint as an ONNX file, or one for ``torch.export.load``."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("export")
def main(config: DictConfig) -> float:
    """Runs the command; a sweeper gets the largest difference to PyTorch."""
    from aelm.export.task import run  # here, so misspelt keys are reported before torch is loaded

    return run(config).difference


if __name__ == "__main__":
    main()
