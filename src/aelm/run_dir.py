"""A run's directory: who may write there, and whether a run goes on in it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from aelm.places import check_folder

# What may differ between a run and its continuation: nothing that weights depend on.
FREE = {
    "resume", "run_dir", "name", "figures", "checkpoint_every_n_steps", "dataset.workers", "dataset.cache",
    "trainer.enable_progress_bar", "trainer.profiler", "trainer.max_time",
}  # fmt: skip


def claim(run_dir: Path, config: DictConfig, *, first: bool = True) -> Path | None:
    """Writes ``config.yaml`` into a fresh run directory, or finds where the run there stopped.

    Args:
        run_dir: The directory, which may not exist yet.
        config: The whole configuration, resolved; ``resume`` says whether checkpoints there are gone on from.
        first: Whether this is the first of several processes: the others neither look after the directory nor make one.

    Returns:
        The checkpoint to go on from; None for a fresh start.

    Raises:
        FileExistsError: If there are checkpoints there, of this or another configuration, that would be lost.
        OSError: If nothing can be written there.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    held = sorted(p.name for p in last.parent.glob("*.ckpt"))
    if not first:
        return last if last.is_file() and config.resume == "auto" else None
    if held:
        before = run_dir / "config.yaml"
        changed = differences(OmegaConf.load(before), config) if before.is_file() else ["config.yaml is gone"]
        if changed:
            raise FileExistsError(
                f"{run_dir} holds checkpoints ({', '.join(held)}) of another configuration: {'; '.join(changed[:5])}. "
                "Choose another `name`, or remove the directory"
            )
        if config.resume != "auto":
            raise FileExistsError(
                f"{run_dir} holds checkpoints ({', '.join(held)}) of this configuration. Go on with `resume=auto`, "
                "choose another `name`, or remove the directory"
            )
    check_folder(last.parent, "run_dir")
    run_dir.mkdir(parents=True, exist_ok=True)
    if not held:
        OmegaConf.save(config, run_dir / "config.yaml")
    return last if last.is_file() and config.resume == "auto" else None


def differences(before: Any, after: Any) -> list[str]:
    """What changed between two configurations, as ``key: old -> new``."""
    old = dict(flat(OmegaConf.to_container(before)))
    new = dict(flat(OmegaConf.to_container(after)))
    keys = sorted(key for key in old.keys() | new.keys() if key not in FREE)
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def flat(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested configuration, with dotted names."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flat(value, f"{place}.{key}".lstrip("."))
    else:
        yield place, node
