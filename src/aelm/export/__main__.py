"""``python -m aelm.export``: a checkpoint as an ONNX file, or one for ``torch.export.load``."""

from pathlib import Path

from omegaconf import DictConfig

from aelm.command.cli import command
from aelm.embed.embedder import load_embedder
from aelm.export.onnx import Exported, export_model
from aelm.files import check_file


@command("export")
def main(config: DictConfig) -> float:
    """Runs the whole of it; a sweeper gets the largest difference to PyTorch."""
    return run(config).difference


def run(config: DictConfig) -> Exported:
    """Exports as ``config`` says, and prints what was written and how far it is from PyTorch."""
    check_file(config.output)
    embedder = load_embedder(config.checkpoint, list(config.allow), size=config.size)
    exported = export_model(
        embedder,
        Path(config.output),
        config.format,
        preprocessing=config.preprocessing,
        opset=config.opset,
        tolerance=config.tolerance,
    )
    print(
        f"{exported.path} ({exported.path.stat().st_size / 2**20:.1f} MiB) and {exported.sidecar.name}: at batch 1, 2 "
        f"and 7 the largest difference to PyTorch is {exported.difference:.1e}"
    )
    return exported


if __name__ == "__main__":
    main()
