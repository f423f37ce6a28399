"""``python -m aelm.export``: a checkpoint as an ONNX file, or one for ``torch.export.load``."""

from omegaconf import DictConfig

from aelm.command.cli import command


@command("export")
def main(config: DictConfig) -> float:
    """Runs the whole of it; a sweeper gets the largest difference to PyTorch."""
    from aelm.export.task import run  # here, so that a misspelt key is told before torch is loaded

    return run(config).difference


if __name__ == "__main__":
    main()
