"""``python -m aelm.evaluate``: tests a checkpoint, on its own data set or another."""

import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from aelm import pictures, report
from aelm.build import build_data, built
from aelm.checkpoint import KEY, read_checkpoint
from aelm.cli import command
from aelm.data import ReIDDataModule
from aelm.embedder import Embedder, load_embedder
from aelm.module import ReIDModule


@command("evaluate")
def main(config: DictConfig) -> float:
    """Runs the whole of it; a sweeper gets the mAP of the first test set."""
    return run(config)["test/mAP"]


def run(config: DictConfig) -> dict[str, float]:
    """Tests as ``config`` says, prints the table, and writes to ``output`` where one is given.

    Returns:
        Every score by its name, as ``metrics.json`` holds it.
    """
    embedder = load_embedder(config.checkpoint, list(config.allow))
    module = ReIDModule(embedder.network, {}, torch.optim.SGD)
    data = build_test_data(config, training_of(config, embedder))
    trainer = built({**config.trainer, "logger": False, "enable_checkpointing": False, "enable_model_summary": False})
    trainer.test(module, data, verbose=False)
    scores = report.scores(module.results)
    if trainer.is_global_zero:
        print(report.table(module.results))
        if config.output is not None:
            write(Path(config.output), config.figures, scores, module, data)
    return scores


def training_of(config: DictConfig, embedder: Embedder) -> dict[str, Any]:
    """What the checkpoint tells of its training: data set, transform, sampler, seed.

    Other people's ONNX files, and checkpoints written without a configuration, only tell how large pictures must be.

    Raises:
        ValueError: If nothing says what to test on.
    """
    is_onnx = Path(config.checkpoint).suffix.lower() == ".onnx"
    told: dict[str, Any] = {} if is_onnx else read_checkpoint(config.checkpoint)[KEY]["config"]
    if told:
        return told
    if OmegaConf.is_missing(config.dataset, "benchmarks"):
        raise ValueError(f"{config.checkpoint} does not say what to test on: choose it, such as dataset=market1501")
    transform = {"_target_": "aelm.data.recipe", "height": embedder.height, "width": embedder.width}
    return {"dataset": {}, "transform": transform, "sampler": None, "seed": 0}


def build_test_data(config: DictConfig, trained: dict[str, Any]) -> ReIDDataModule:
    """The data that is tested on: the checkpoint's, with what the command line says in its place."""
    chosen: Any = OmegaConf.to_container(config.dataset)
    given = {key: value for key, value in chosen.items() if value != "???"}
    own = "benchmarks" in given
    before = {key: value for key, value in trained["dataset"].items() if not own or key not in ("train", "test")}
    home = trained["data_dir"] if not own else os.environ.get("AELM_DATA", "data")
    whole = OmegaConf.create({"data_dir": config.data_dir or home, "dataset": {**before, **given}})
    return build_data(whole.dataset, built(trained["transform"]), built(trained["sampler"]), trained["seed"])


def write(output: Path, draw: bool, scores: dict[str, float], module: ReIDModule, data: ReIDDataModule) -> None:
    """metrics.json, a CSV a test set with its queries, and the pictures."""
    report.write_metrics(scores, output / "metrics.json")
    for one in data.test_sets:
        report.write_queries(module.results[one.name], one.query, output / f"queries_{one.name}.csv")
    if draw:
        pictures.draw(output, module, data, {})


if __name__ == "__main__":
    main()
