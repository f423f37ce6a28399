"""The keys that each config may hold. A misspelt key at any level is an error that names it."""

import difflib
import importlib.util
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from aelm.types import InputError, MissingPackageError

EXTRAS = {"pytorch_metric_learning": "losses"}  # package -> extra of aelm that installs it

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def expected(annotation: Any, value: Any) -> str:
    """What an annotation expects, in words; empty if ``value`` fits or this cannot be decided.

    Checks only unions of plain types and literals; other types are left to the part itself.

    >>> expected(int | None, 2.5), expected(float, 1), expected(Literal["a", "b"], "c"), expected(list[int], "x")
    ('a whole number or null', '', "'a' or 'b'", '')
    """
    parts = alternatives(annotation)
    kinds = [part for part in parts if part in WORDS]
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    known = len(kinds) + sum(get_origin(part) is Literal for part in parts) == len(parts)
    if not known or isinstance(value, (list, dict)) or any(value == c and type(value) is type(c) for c in choices):
        return ""
    if any(type(value) is kind or (kind is float and type(value) is int) for kind in kinds):
        return ""
    return " or ".join([WORDS[kind] for kind in kinds] + [repr(choice) for choice in choices])


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, including nested unions; ``Path`` counts as text."""
    if get_origin(annotation) in (Union, UnionType):
        return list(dict.fromkeys(part for member in get_args(annotation) for part in alternatives(member)))
    return [{Path: str, None: NoneType}.get(annotation, annotation)]


def annotations(target: Any) -> dict[str, Any]:
    """The annotations of a class's or function's parameters by name; parameters without one are left out.

    Raises:
        ValueError: If it has no signature.
    """
    try:
        found = inspect.signature(target, eval_str=True).parameters
    except (NameError, AttributeError, TypeError):  # a library may use names that only exist for type checkers
        return {}
    return {name: p.annotation for name, p in found.items() if p.annotation is not inspect.Parameter.empty}


def located(target: str) -> Any:
    """The class or function of a dotted name.

    Raises:
        ValueError: If it does not exist.
        ModuleNotFoundError: If it is in a package that one of aelm's extras installs.
    """
    package = target.partition(".")[0]
    extra = EXTRAS.get(package)
    if extra and importlib.util.find_spec(package) is None:
        raise MissingPackageError(f"`{target}` needs a package that is not installed: pip install 'aelm[{extra}]'")
    from aelm.checkpoint import locate  # imports torch, which --help does without

    try:
        return locate(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"`_target_: {target}` cannot be found: {error}") from error


def parameters(target: Any) -> set[str] | None:
    """Keyword names that a class or function accepts; None if it accepts any.

    Raises:
        ValueError: If it cannot be called.
    """
    try:
        found = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        raise InputError(f"`_target_: {target}` cannot be built: {error}") from error
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found.values()):
        return None
    return {name for name, p in found.items() if p.kind is not inspect.Parameter.VAR_POSITIONAL}


@dataclass
class DatasetConfig:
    """Keys of ``dataset``; ``conf/dataset/base.yaml`` explains them."""

    benchmarks: dict[str, Any] = MISSING
    train: list[str] | None = MISSING
    test: list[str] | None = MISSING
    val_fraction: float = MISSING
    cache: str = MISSING
    on_bad_image: str = MISSING
    workers: int | None = MISSING
    test_batch_size: int = MISSING


@dataclass
class TrainConfig:
    """Keys of ``python -m aelm.train``; ``conf/train.yaml`` explains them."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    transform: Any = MISSING
    sampler: Any = MISSING
    model: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    name: str = MISSING
    run_dir: str = MISSING
    data_dir: str = MISSING
    seed: int = MISSING
    monitor: str = MISSING
    resume: str | None = MISSING
    new_lr_factor: float = MISSING
    decay_norm_and_bias: bool = MISSING
    frozen_epochs: int = MISSING
    frozen_stages: int = MISSING
    neck_weights: str | None = MISSING
    lr_scale: str = MISSING
    checkpoint_every_n_steps: int | None = MISSING
    ema: float | None = MISSING
    erasing: Any = MISSING
    channels_last: bool = MISSING
    compile: bool = MISSING
    figures: bool = MISSING


@dataclass
class EvaluateConfig:
    """Keys of ``python -m aelm.evaluate``; ``conf/evaluate.yaml`` explains them."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    trainer: Any = MISSING
    checkpoint: str | None = MISSING
    size: list[int] | None = MISSING
    camera: int | None = MISSING
    query: str | None = MISSING
    gallery: str | None = MISSING
    distances: str | None = MISSING
    output: str | None = MISSING
    data_dir: str | None = MISSING
    distractors: str | None = MISSING
    flip: bool = MISSING
    rerank: bool = MISSING
    k1: int = MISSING
    k2: int = MISSING
    lambda_value: float = MISSING
    multi_query: bool = MISSING
    expand_queries: int = MISSING
    centralise: int = MISSING
    bootstrap: int = MISSING
    far: list[float] = MISSING
    claims: bool = MISSING
    claims_people: int | None = MISSING
    occlusion: str | None = MISSING
    occlusion_fractions: list[float] = MISSING
    occlusion_kinds: list[str] = MISSING
    occlusion_seed: int = MISSING
    latency: bool = MISSING
    figures: bool = MISSING
    allow: list[str] = MISSING


@dataclass
class EmbedConfig:
    """Keys of ``python -m aelm.embed``; ``conf/embed.yaml`` explains them."""

    checkpoint: str = MISSING
    size: list[int] | None = MISSING
    camera: int | None = MISSING
    images: str = MISSING
    output: str = MISSING
    pattern: str | None = MISSING
    tracks: bool = MISSING
    quality: str | None = MISSING
    device: Any = MISSING
    batch_size: int | None = MISSING
    shard_size: int = MISSING
    workers: int | None = MISSING
    progress: bool = MISSING
    precision: str = MISSING
    allow: list[str] = MISSING


@dataclass
class SearchConfig:
    """Keys of ``python -m aelm.search``; ``conf/search.yaml`` explains them."""

    checkpoint: str | None = MISSING
    size: list[int] | None = MISSING
    camera: int | None = MISSING
    query: str = MISSING
    gallery: Any = MISSING
    output: str | None = MISSING
    top_k: int = MISSING
    min_score: float | None = MISSING
    only_camids: list[str] | None = MISSING
    except_camids: list[str] | None = MISSING
    other_cameras: bool = MISSING
    paths: str | None = MISSING
    skip_self: bool = MISSING
    heatmaps: bool = MISSING
    pattern: str | None = MISSING
    device: Any = MISSING
    batch_size: int | None = MISSING
    workers: int | None = MISSING
    progress: bool = MISSING
    precision: str = MISSING
    allow: list[str] = MISSING


@dataclass
class LinkConfig:
    """Keys of ``python -m aelm.link``; ``conf/link.yaml`` explains them."""

    embeddings: str = MISSING
    output: str = MISSING
    checkpoint: str | None = MISSING
    threshold: float | None = MISSING
    metrics: str | None = MISSING
    far: float = MISSING
    corrections: str | None = MISSING
    neighbours: int = MISSING
    rerank: bool = MISSING
    k1: int = MISSING
    k2: int = MISSING
    heatmaps: bool = MISSING
    page_people: int = MISSING
    device: Any = MISSING
    allow: list[str] = MISSING


@dataclass
class ExportConfig:
    """Keys of ``python -m aelm.export``; ``conf/export.yaml`` explains them."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    checkpoint: str = MISSING
    size: list[int] | None = MISSING
    camera: int | None = MISSING
    output: str | None = MISSING
    format: str = MISSING
    preprocessing: str = MISSING
    precision: str = MISSING
    calibrate: str | None = MISSING
    data_dir: str | None = MISSING
    opset: int = MISSING
    tolerance: float | None = MISSING
    allow: list[str] = MISSING


@dataclass
class ExplainConfig:
    """Keys of ``python -m aelm.explain``; ``conf/explain.yaml`` explains them."""

    checkpoint: str = MISSING
    size: list[int] | None = MISSING
    camera: int | None = MISSING
    images: str | None = MISSING
    pair: list[str] | None = MISSING
    output: str = MISSING
    pattern: str | None = MISSING
    labels: str | None = MISSING
    rows: int = MISSING
    device: str = MISSING
    allow: list[str] = MISSING


@dataclass
class CropConfig:
    """Keys of ``python -m aelm.crop``; ``conf/crop.yaml`` explains them."""

    video: Any = MISSING
    boxes: Any = MISSING
    camera: Any = MISSING
    output: str = MISSING
    truth: str | None = MISSING
    fps: float | None = MISSING
    every: int = MISSING
    min_height: float = MISSING
    min_confidence: float | None = MISSING
    per_track: int | None = MISSING
    progress: bool = MISSING


@dataclass
class CompareConfig:
    """Keys of ``python -m aelm.compare``; ``conf/compare.yaml`` explains them."""

    runs: Any = MISSING
    output: str | None = MISSING
    files: list[str] = MISSING
    metrics: list[str] = MISSING
    baseline: str | None = MISSING
    confidence: float = MISSING
    ignore: list[str] = MISSING


SCHEMAS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "embed": EmbedConfig,
    "search": SearchConfig,
    "export": ExportConfig,
    "explain": ExplainConfig,
    "crop": CropConfig,
    "link": LinkConfig,
    "compare": CompareConfig,
}


def register() -> None:
    """Registers the schemas with Hydra as ``train_schema``, ``evaluate_schema``, and so on."""
    for command, schema in SCHEMAS.items():
        ConfigStore.instance().store(f"{command}_schema", schema)


def needed(command: str) -> set[str]:
    """The top-level keys of a command that are text and never null."""
    return {f.name for f in fields(SCHEMAS[command]) if f.type is str}


def check_keys(config: DictConfig) -> None:
    """Compares the keys and plain values of each ``_target_`` node with the signature of its target.

    The schemas check the top level of a config. This checks the rest before anything is built.

    Raises:
        ValueError: If a key is unknown (names the key, its place and the nearest known key), or a value has the wrong
            type.
    """
    parts = {"": config, **({"dataset.": config.dataset} if "dataset" in config else {})}
    for place, part in parts.items():
        held: Any = OmegaConf.get_type(part)
        keys = {f.name for f in fields(held)}  # Hydra accepts `+key=value` even if the schema lacks it
        for key in map(str, part):
            if key not in keys:
                raise InputError(f"unknown key `{place}{key}`{suggestion(key, keys)}")
    plain = OmegaConf.to_container(config, resolve=False)
    for place, node in nodes(plain):
        target = located(str(node["_target_"]))
        known, takes = parameters(target), annotations(target)
        for key, value in node.items():
            if known is not None and key not in {*known, "_target_", "_partial_"}:
                raise InputError(
                    f"`{place}.{key}`: {node['_target_']} has no `{key}`{suggestion(key, known)}. If an experiment has "
                    f"set it, take it out with ~{place}.{key}"
                )
            is_open = isinstance(value, str) and (value == "???" or "${" in value)
            if key in takes and not is_open and (wanted := expected(takes[key], value)):
                raise InputError(f"`{place}.{key}` must be {wanted}, got {value!r}")


def check_given(config: DictConfig, command: str) -> None:
    """Raises ValueError unless every required top-level key has a value."""
    missing = sorted(key for key in map(str, OmegaConf.missing_keys(config)) if "." not in key)
    if missing:
        given = " ".join(f"{key}=..." for key in missing)
        raise InputError(
            f"{' and '.join(f'`{key}`' for key in missing)} must be given: aelm {command} {given}; "
            f"aelm {command} --help shows all keys"
        )


def suggestion(key: str, known: Collection[str]) -> str:
    """A hint for an unknown key: the nearest known key, or all of them."""
    if not known:
        return ""
    near = difflib.get_close_matches(key, known, 1)
    return f", did you mean `{near[0]}`?" if near else f"; there are {', '.join(sorted(known))}"


def nodes(plain: Any, place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a ``_target_`` within ``plain``, with its dotted path."""
    items = plain.items() if isinstance(plain, Mapping) else enumerate(plain) if isinstance(plain, list) else ()
    if isinstance(plain, Mapping) and plain.get("_target_", "???") != "???":
        yield place, plain
    for key, value in items:
        yield from nodes(value, f"{place}.{key}".lstrip("."))
