"""Reads finished, failed and unfinished runs from disk."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from aelm.files import matching
from aelm.report.runs import dotted_values, is_result, override_values, read_config, read_sweep
from aelm.types import InputError

SAME = 1e-3  # tolerance between two files' values of a score: rounding of another device, not another data set


class Run(NamedTuple):
    """The files of a run.

    Attributes:
        folder: Its directory.
        config: ``config.yaml`` by dotted key; empty if the run failed before writing it.
        settings: Command-line settings by key; empty if unknown.
        scores: Numbers by name, of all requested files.
        facts: Texts by name, such as ``device``.
        absent: Requested files that are missing.
        failure: Error recorded by the sweep if there are no scores; otherwise empty.
    """

    folder: Path
    config: Mapping[str, Any]
    settings: Mapping[str, str]
    scores: Mapping[str, float]
    facts: Mapping[str, str]
    absent: tuple[str, ...] = ()
    failure: str = ""

    @property
    def seed(self) -> int:
        """The seed that pairs runs; -1 without ``config.yaml``."""
        return int(self.config.get("seed", -1))


def read_runs(places: Sequence[str], files: Sequence[str]) -> list[Run]:
    """Reads the runs at some paths, sorted by directory, with numbers in numeric order.

    Args:
        places: Run directories, folders that contain them at any depth (such as a sweep), or patterns such as
            ``runs/arm-*``.
        files: Names of flat JSON files in a run directory. A run without the first one has no scores yet.

    Raises:
        FileNotFoundError: If a path does not exist or holds no runs.
        ValueError: If there are no ``files``, or one cannot be read.
    """
    if not files:
        raise InputError("`files` is empty: name what holds the scores within a run directory, such as [metrics.json]")
    found: dict[Path, Run] = {}
    for place in places:
        matches = sorted(matching(place), key=by_number)
        runs = [run for match in matches if os.path.isdir(match) for run in runs_in(Path(match), files)]
        if not runs:
            held = ", ".join(sorted(os.listdir(place))[:8]) if os.path.isdir(place) else "no such folder"
            raise FileNotFoundError(f"no run in {place} (a run holds config.yaml); found: {held or 'nothing'}")
        found |= {run.folder.absolute(): run for run in runs}  # a run found by two paths counts once
    return list(found.values())


def runs_in(folder: Path, files: Sequence[str]) -> Iterator[Run]:
    """The run in a folder, or the runs below it, and failed sweep jobs without a run."""
    notes = {row["job"]: row for row in read_sweep(folder / "sweep.csv")}
    if (folder / "config.yaml").is_file():
        beside = {row["job"]: row for row in read_sweep(folder.parent / "sweep.csv")}
        yield read_run(folder, files, beside.get(folder.name, {}))
        return
    inside = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: by_number(str(path)))
    for path in inside:
        yield from runs_in(path, files)
    for number, row in notes.items():
        if row["status"] == "failed" and not (folder / number / "config.yaml").is_file():
            yield Run(folder / number, {}, settings_of(row), {}, {}, tuple(files), row["error"])


def read_run(folder: Path, files: Sequence[str], note: Mapping[str, str]) -> Run:
    """Reads a run directory.

    Args:
        folder: Folder with ``config.yaml``.
        files: As in :func:`read_runs`.
        note: The run's row in ``sweep.csv``; empty if there is none.
    """
    config = dict(dotted_values(OmegaConf.to_container(read_config(folder / "config.yaml"))))
    if "seed" not in config:
        raise InputError(f"{folder / 'config.yaml'} has no `seed`: it was not written by `python -m aelm.train`")
    held = {name: read_flat(folder / name) for name in files if (folder / name).is_file()}
    numbers = {
        name: {key: float(value) for key, value in content.items() if isinstance(value, (int, float))}
        for name, content in held.items()
    }
    facts = {key: value for content in held.values() for key, value in content.items() if isinstance(value, str)}
    told = override_values(json.loads(facts.pop("overrides", "[]")))
    settings = settings_of(note) or told
    has_scores = files[0] in held
    failure = note.get("error", "") if not has_scores and note.get("status") == "failed" else ""
    return Run(
        folder,
        config,
        settings,
        merged_scores(folder, numbers) if has_scores else {},
        facts,
        tuple(name for name in files if name not in held),
        failure,
    )


def merged_scores(folder: Path, numbers: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Merges the numbers of several files; the first file wins.

    Raises:
        ValueError: If two files differ in a score.
    """
    result: dict[str, float] = {}
    origin: dict[str, str] = {}
    for file, content in numbers.items():
        for name, value in content.items():
            if abs(result.setdefault(name, value) - value) > SAME:
                raise InputError(
                    f"{name} of {folder} is {result[name]:g} in {origin[name]} and {value:g} in {file}: they were "
                    "measured on other data or in another way. Leave one of them out of `files`"
                )
            origin.setdefault(name, file)
    return result


def read_flat(path: Path) -> dict[str, Any]:
    """Reads a flat JSON file, name -> number or text.

    Raises:
        ValueError: If it is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); was the run that wrote it cut off?") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold names and numbers, {{...}}, got a {type(content).__name__}")
    return content


def settings_of(row: Mapping[str, str]) -> dict[str, str]:
    """The command-line settings in a row of ``sweep.csv``."""
    return {key: value for key, value in row.items() if value and not is_result(key)}


def by_number(path: str) -> tuple[tuple[bool, float, str], ...]:
    """Sort key: 2 before 10, and numbers before names.

    >>> sorted(["runs/10", "runs/a", "runs/2"], key=by_number)
    ['runs/2', 'runs/10', 'runs/a']
    """
    parts = Path(path).parts
    return tuple((not part.isdigit(), float(part) if part.isdigit() else 0.0, part) for part in parts)
