"""How a command starts: under Hydra, with paths on the command line quoted and keys checked."""

import functools
import io
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from aelm.command import failures, schema

STARTED_BY = "AELM_STARTED_BY"  # in the environment of what a command starts: the command's process id


def follow(interval: float = 2.0) -> None:
    """Lets this process end soon after the one that started it, where that is one of several that work together.

    Otherwise a process whose first one is killed before they have met waits half an hour for it, with its memory and
    its GPU. Once they have met, a broken connection tells.

    Args:
        interval: Seconds between two looks.
    """
    starter = starter_of(os.environ)
    os.environ[STARTED_BY] = str(os.getpid())
    if starter is not None:
        threading.Thread(target=_watch, args=(starter, interval), daemon=True, name="aelm-orphan").start()


def starter_of(environment: Mapping[str, str]) -> int | None:
    """The process that this one must not outlive: Lightning's first, or torchrun; None where there is none.

    >>> [starter_of({"LOCAL_RANK": rank, STARTED_BY: "7"}) for rank in ("0", "1")]
    [None, 7]
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return os.getppid()
    if environment.get("LOCAL_RANK", "0") != "0" and STARTED_BY in environment:
        return int(environment[STARTED_BY])
    return None


def _watch(starter: int, interval: float) -> None:
    while os.getppid() == starter:
        time.sleep(interval)
    os.write(2, f"error: process {starter}, which started process {os.getpid()}, is gone: this one ends too\n".encode())
    os._exit(1)  # the main thread may stand in a call that no exception reaches


# Keys whose values are paths, names or patterns: Hydra's grammar would trip over blanks, commas, brackets or quotes.
TEXT_KEYS = {
    "baseline",
    "boxes",
    "calibrate",
    "checkpoint",
    "corrections",
    "csv",
    "data_dir",
    "distances",
    "distractors",
    "embeddings",
    "gallery",
    "images",
    "metrics",
    "name",
    "output",
    "paths",
    "pattern",
    "query",
    "resume",
    "root",
    "runs",
    "truth",
    "uri",
    "video",
    "weights",
}
# Those of them that parts have too; `sampler.images` is a number.
INNER_KEYS = {"csv", "data_dir", "gallery", "name", "output", "pattern", "query", "root", "uri", "weights"}
PATH_KEYS = TEXT_KEYS - {"baseline", "pattern", "name", "paths"}
# Keys whose values are lists of paths, ``[a.jpg,b.jpg]``.
LIST_KEYS = {"boxes", "files", "metrics", "pair", "runs", "video"}


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Turns a function of a config into a program over ``aelm.conf``'s ``config_name``.

    What can be foreseen to go wrong is told in one line (see :mod:`aelm.command.failures`).
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        wanted = os.environ.get(failures.FULL)

        @functools.wraps(task)
        def checked(config: DictConfig) -> Any:
            choose_messages()
            # Processes that the task starts shall find the variable as the user set it.
            with failures.environment(failures.FULL, wanted):
                if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweep goes on with its other jobs, then fails
                    return run(config)
                with failures.told_in_one_line():  # in here, since Hydra would put a line of its own before it
                    return run(config)

        def run(config: DictConfig) -> Any:
            schema.check_keys(config)
            schema.check_given(config, config_name)
            return task(config)

        def start() -> None:
            # As aelm.models.onnx does, which would bring torch.
            os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
            follow()
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):  # a console that cannot show a letter gets its number
                    stream.reconfigure(errors="backslashreplace")
            sys.argv[1:] = quoted(sys.argv[1:], schema.needed(config_name))
            schema.register()
            # Told to show all, Hydra hands errors on instead of printing them in its own way.
            with failures.told_in_one_line(), failures.environment(failures.FULL, "1"):
                hydra.main(version_base="1.3", config_path="pkg://aelm.conf", config_name=config_name)(checked)()
            leave_process_group()

        return start

    return decorate


def leave_process_group() -> None:
    """Closes the connections of several processes that ended well; Lightning does so for NCCL alone.

    What gloo left open now and then aborts the process while Python shuts down, after all its work is done:
    ``terminate called without an active exception`` (pytorch issue 190489). Where a process fails, others may still
    wait for it, and closing could wait for them.
    """
    torch = sys.modules.get("torch")  # which not every command needs
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def choose_messages() -> None:
    """Sends Lightning's messages to stdout; leaves out its advertisements and other libraries' deprecation warnings.

    By itself Lightning writes to stderr, where errors stand. ``python -W`` and ``PYTHONWARNINGS`` show every warning.
    """
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(is_no_advertisement)
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module="(?!aelm)")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def is_no_advertisement(record: logging.LogRecord) -> bool:
    """False for what Lightning says in praise of its makers' other products."""
    return "Tip: " not in record.getMessage()


def quoted(arguments: Sequence[str], needed: Collection[str] = ()) -> list[str]:
    """Puts quotes, as Hydra's grammar wants them, around texts that need them; done twice it does nothing.

    Args:
        arguments: The command line.
        needed: Keys of text that have no null: ``null`` is a text there, like any other word.

    >>> quoted(["data_dir=/data/it's (1)", "seed=1,2", "output=~/x", "name=1e-3"]) == [
    ...     'data_dir="/data/it\\'s (1)"', "seed=1,2", f"output={os.path.expanduser('~/x')}", "name='1e-3'"]
    True
    """
    result = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        place, _, last = key.lstrip("+~").rpartition(".")
        is_text = last in (INNER_KEYS if place else TEXT_KEYS)
        if separator and is_text and last in PATH_KEYS and value.startswith("~"):
            value = os.path.expanduser(value)
        # Plain words, and what is Hydra's own: quoted strings, interpolations, lists where a key takes one, null.
        plain = re.fullmatch(r"[\w./:@%+-]*|'.*'|\".*\"|\$\{.*\}", value, re.ASCII | re.DOTALL)
        if value.lower() == "null":
            plain = None if key in needed else plain
        elif re.fullmatch(_NO_TEXT, value, re.IGNORECASE):
            plain = None
        is_list = value.startswith("[") and value.endswith("]") and last in LIST_KEYS
        if separator and is_text and not plain and not is_list:
            value = quote(value)
        if separator and is_list:
            value = quoted_list(value)
        result.append(f"{key}{separator}{value}")
    return result


# What Hydra's grammar reads as a number or a truth value.
_NO_TEXT = r"[+-]?(?:[\d_]+\.?[\d_]*|\.[\d_]+)(?:e[+-]?[\d_]+)?|[+-]?(?:inf|nan)|true|false"


def quoted_list(value: str) -> str:
    """The paths of a list, each quoted; a list that Hydra can read stays as it is.

    >>> print(quoted_list("[a b.jpg,it's.jpg]"), quoted_list("[a.jpg,'b c.jpg']"))
    ['a b.jpg',"it's.jpg"] [a.jpg,'b c.jpg']
    """
    one = r"""(?:[\w./:@%+-]+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    if re.fullmatch(rf"\[\s*{one}(?:\s*,\s*{one})*\s*\]", value, re.ASCII):
        return value
    return f"[{','.join(quote(os.path.expanduser(part)) for part in value[1:-1].split(','))}]"


def quote(text: str) -> str:
    """A string as a quoted value of Hydra's grammar."""
    mark = '"' if "'" in text and '"' not in text else "'"
    text = re.sub(rf"(\\*){mark}", lambda m: m[1] * 2 + "\\" + mark, text)
    text = re.sub(r"(\\+)$", lambda m: m[1] * 2, text)
    return f"{mark}{text}{mark}"
