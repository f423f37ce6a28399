"""Run directories as `aelm.train` and its sweeps leave them, written by hand."""

import csv
import json

from omegaconf import OmegaConf

ARMS = {
    "ifcn": {"model": {"aelm": {"_target_": "aelm.models.IFCN"}}},
    "aelm": {"model": {"aelm": {"_target_": "aelm.models.AELM", "threshold": 0.7}}},
}


def write_run(folder, config, seed, scores=None, facts=None, **more):
    """A run with some scores; further files by name, ``evidence={...}`` for evidence/metrics.json."""
    folder.mkdir(parents=True)
    whole = {"seed": seed, "name": folder.name, "run_dir": str(folder), "data_dir": f"/data/{seed}", **config}
    OmegaConf.save(OmegaConf.create(whole), folder / "config.yaml")
    for name, content in {"metrics": scores, "run": facts}.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    for name, content in more.items():
        (folder / name).mkdir()
        (folder / name / "metrics.json").write_text(json.dumps(content))
    return folder


def write_sweep(folder, values, facts=None):
    """A sweep: arm -> seed -> mAP; None is a job that failed before it wrote a thing, "stopped" one without scores."""
    rows = []
    for number, (arm, seed, value) in enumerate((a, s, v) for a, seeds in values.items() for s, v in seeds.items()):
        row = {"job": number, "status": "done", "arm": arm, "seed": seed, "test/mAP": value, "error": ""}
        if value is None:
            rows.append({**row, "status": "failed", "test/mAP": "", "error": "ValueError: it broke"})
        elif value == "stopped":
            write_run(folder / str(number), ARMS[arm], seed)
        else:
            write_run(folder / str(number), ARMS[arm], seed, {"test/mAP": value}, facts)
            rows.append(row)
    with (folder / "sweep.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["job", "status", "arm", "seed", "test/mAP", "error"])
        table.writeheader()
        table.writerows(rows)
    return folder
