"""Starts a command under Hydra: quotes paths on the command line, checks keys, reports errors.

Expected errors are one line; bugs show the full traceback.
"""

import functools
import io
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from aelm.command import schema
from aelm.command.schema import suggestion
from aelm.types import UserError

FULL = "HYDRA_FULL_ERROR"  # Hydra's variable: with 1 every error shows its full traceback
STARTED_BY = "AELM_STARTED_BY"  # environment variable for child processes: the process id of the command


def follow(interval: float = 2.0) -> None:
    """Ends this process soon after its parent is gone, if it is one of several training processes.

    If rank 0 is killed before the processes connect, the others would otherwise wait half an hour and hold their memory
    and GPU. Once connected, they notice a broken connection.

    Args:
        interval: Seconds between two checks.
    """
    starter = starter_of(os.environ)
    os.environ[STARTED_BY] = str(os.getpid())
    if starter is not None:
        threading.Thread(target=_watch, args=(starter, interval), daemon=True, name="aelm-parent-watch").start()


def starter_of(environment: Mapping[str, str]) -> int | None:
    """The process that this one must not outlive: Lightning's rank 0, or torchrun; None if there is none.

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
    os._exit(1)  # the main thread may be in a call that no exception can interrupt


# Keys whose values are paths, names or patterns: Hydra's grammar rejects blanks, commas, brackets or quotes in them.
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
    "neck_weights",
    "output",
    "paths",
    "pattern",
    "query",
    "resume",
    "root",
    "run_dir",
    "runs",
    "truth",
    "uri",
    "video",
    "weights",
}
# Those that also occur below the top level; `sampler.images` is a number.
INNER_KEYS = {"csv", "data_dir", "gallery", "name", "output", "pattern", "query", "root", "uri", "weights"}
PATH_KEYS = TEXT_KEYS - {"baseline", "pattern", "name", "paths"}
# Keys whose values are lists of paths, ``[a.jpg,b.jpg]``.
LIST_KEYS = {"boxes", "files", "metrics", "pair", "runs", "video"}


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorator: turns a function of a config into a Hydra program with the configuration ``config_name``.

    Expected errors are reported in one line (see :func:`one_line_errors`).
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        wanted = os.environ.get(FULL)

        @functools.wraps(task)
        def checked(config: DictConfig) -> Any:
            choose_messages()
            # Child processes get the variable as the user set it.
            with environment(FULL, wanted):
                if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweep runs its other jobs, then fails
                    return run(config)
                with one_line_errors():  # inside Hydra, which would print a line of its own first
                    return run(config)

        def run(config: DictConfig) -> Any:
            schema.check_keys(config)
            schema.check_given(config, config_name)
            return task(config)

        def start() -> None:
            # As in aelm.models.onnx, but without importing torch.
            os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
            follow()
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):  # characters that a console cannot show are escaped
                    stream.reconfigure(errors="backslashreplace")
            if not {"-h", "--help"}.isdisjoint(sys.argv[1:]):
                print(help_text(config_name))
                return
            sys.argv[1:] = quoted(sys.argv[1:], schema.needed(config_name))
            schema.register()
            # With this variable set, Hydra raises errors instead of printing them.
            with one_line_errors(), environment(FULL, "1"):
                hydra.main(version_base="1.3", config_path="pkg://aelm.conf", config_name=config_name)(checked)()
            leave_process_group()

        return start

    return decorate


def help_text(config_name: str) -> str:
    """What ``--help`` prints: the command's keys with the comments of its file, and the groups it chooses from.

    >>> print(help_text("export").splitlines()[0])
    python -m aelm.export checkpoint=FILE: the model for other programs, checked against PyTorch.
    """
    conf = resources.files("aelm.conf")
    head, _, rest = (conf / f"{config_name}.yaml").read_text("utf-8").partition("defaults:\n")
    defaults, _, keys = rest.partition("\n\n")
    lines = []
    for group, default in re.findall(r"^  - (\w+): (\S+)$", defaults, re.MULTILINE):
        names = sorted(entry.name for entry in (conf / group).iterdir())
        inner = [f"{group}/{name}" for name in names if (conf / group / name).is_dir()]
        for place in [group, *inner]:
            options = sorted(e.name.removesuffix(".yaml") for e in (conf / place).iterdir() if e.name.endswith(".yaml"))
            chosen = f" (default: {default})" if place == group else ""
            lines.append(f"{place}={'|'.join(options)}{chosen}")
    parts = [head.replace("# ", "", 1).rstrip(), *(["Groups:\n" + "\n".join(lines)] if lines else [])]
    parts += ["Keys, as key=value, with their defaults:\n" + keys.partition("\nhydra:")[0].rstrip()]
    parts += ["--cfg job prints all keys and values, those of groups too; --hydra-help lists Hydra's own options."]
    return "\n\n".join(parts)


def leave_process_group() -> None:
    """Closes the process group after a run without errors; Lightning does so only for NCCL.

    An open gloo group sometimes aborts the process when Python exits, after all work is done: ``terminate called
    without an active exception`` (pytorch issue 190489). Not called after an error: other processes may still wait, and
    closing could block.
    """
    torch = sys.modules.get("torch")  # not every command imports it
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def choose_messages() -> None:
    """Sends Lightning's messages to stdout; hides its advertisements and other libraries' deprecation warnings.

    By default Lightning writes to stderr. ``python -W`` and ``PYTHONWARNINGS`` show every warning.
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
    """False for Lightning's advertisements of other products."""
    return "Tip: " not in record.getMessage()


def quoted(arguments: Sequence[str], needed: Collection[str] = ()) -> list[str]:
    """Quotes text values for Hydra's grammar where they need it; quoted values stay as they are.

    In a sweep (``-m``) commas separate values, outside of brackets and patterns, and ``choice(a,b)`` is Hydra's.

    Args:
        arguments: The command line.
        needed: Text keys that cannot be null: there ``null`` is a word like any other.

    >>> quoted(["data_dir=/data/it's (1)", "seed=1,2", "output=~/x", "name=1e-3"]) == [
    ...     'data_dir="/data/it\\'s (1)"', "seed=1,2", f"output={os.path.expanduser('~/x')}", "name='1e-3'"]
    True
    >>> quoted(["name=a,b c"]), quoted(["-m", "name=a,b c"])
    (["name='a,b c'"], ['-m', "name=a,'b c'"])
    """
    is_sweep = not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(arguments)
    result = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        place, _, last = key.lstrip("+~").rpartition(".")
        is_text = last in (INNER_KEYS if place else TEXT_KEYS)
        # Hydra's grammar rejects letters beyond ASCII without quotes; options and dictionaries are left alone.
        is_text = is_text or not (value.isascii() or value.startswith("{") or argument.startswith("-"))
        if separator and (is_text or last in LIST_KEYS):
            parts = [value]
            if is_sweep and last != "pattern":
                parts = [] if re.fullmatch(_SWEEP, value, re.DOTALL) else [found[1] for found in _PART.finditer(value)]
            value = ",".join(_quoted_value(part, last, is_text, key in needed) for part in parts) if parts else value
        result.append(f"{key}{separator}{value}")
    return result


_SWEEP = r"(?:choice|range|interval|glob|shuffle|sort|tag)\(.*\)"  # Hydra's functions of a sweep
_PART = re.compile(
    r"""(?:^|,)\s*((?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\[[^]]*\]|\$\{[^}]*\})(?=\s*(?:,|$))|[^,]*?)\s*(?=,|$)"""
)


def _quoted_value(value: str, name: str, is_text: bool, is_needed: bool) -> str:
    if is_text and name in PATH_KEYS and value.startswith("~"):
        value = os.path.expanduser(value)
    # Plain words and Hydra's syntax: quoted strings, interpolations, lists for keys that take one, null.
    plain = re.fullmatch(r"[\w./:@%+-]*|'.*'|\".*\"|\$\{.*\}", value, re.ASCII | re.DOTALL)
    if value.lower() == "null":
        plain = None if is_needed else plain
    elif re.fullmatch(_NO_TEXT, value, re.IGNORECASE):
        plain = None
    if value.startswith("[") and value.endswith("]") and (name in LIST_KEYS or not value.isascii()):
        return quoted_list(value)
    return quote(value) if is_text and not plain else value


# What Hydra's grammar reads as a number or a boolean.
_NO_TEXT = r"[+-]?(?:[\d_]+\.?[\d_]*|\.[\d_]+)(?:e[+-]?[\d_]+)?|[+-]?(?:inf|nan)|true|false"


QUOTES = "'\""


def quoted_list(value: str) -> str:
    """Quotes each path of a list; a list that Hydra can parse is returned as it is.

    >>> print(quoted_list("[a b.jpg,it's.jpg]"), quoted_list("[a.jpg,'b c.jpg']"))
    ['a b.jpg',"it's.jpg"] [a.jpg,'b c.jpg']
    """
    inside = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
    one = rf"(?:[\w./:@%+-]+|{inside})"
    if re.fullmatch(rf"\[\s*{one}(?:\s*,\s*{one})*\s*\]", value, re.ASCII):
        return value
    if re.fullmatch(rf"\[\s*{one}(?:\s*,\s*{one})*\s*\]", value):  # plain words but for their letters
        parts = re.findall(one, value)
        return f"[{','.join(part if part.isascii() or part[0] in QUOTES else quote(part) for part in parts)}]"
    return f"[{','.join(quote(os.path.expanduser(part)) for part in value[1:-1].split(','))}]"


def quote(text: str) -> str:
    """A string as a quoted value of Hydra's grammar."""
    mark = '"' if "'" in text and '"' not in text else "'"
    text = re.sub(rf"(\\*){mark}", lambda m: m[1] * 2 + "\\" + mark, text)
    text = re.sub(r"(\\+)$", lambda m: m[1] * 2, text)
    return f"{mark}{text}{mark}"


# By class name, since only training imports Lightning.
LIBRARY_ERRORS = {
    "MisconfigurationException": "",
    "OutOfMemoryError": "; smaller batches or pictures take less memory",
}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exits with one line and status 1 if the block raises an expected error.

    Other errors show their traceback; with ``HYDRA_FULL_ERROR=1`` all errors do.
    """
    if os.environ.get(FULL) == "1":
        yield
        return
    try:
        yield
    except Exception as error:
        if not is_expected(error):
            raise
        sys.exit(error_line(error))


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """Sets an environment variable for the block and its child processes; None removes it."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def is_expected(error: BaseException) -> bool:
    """Whether an error is expected: raised by aelm for its user, or about the configuration, files or the system.

    Errors from other libraries and the interpreter count as bugs.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, (OSError, HydraException)) or kinds & LIBRARY_ERRORS.keys():
        return True
    if isinstance(error, OmegaConfBaseException):  # Hydra reports the user's misspelt keys; in our code they are bugs
        return not isinstance(error, (AttributeError, LookupError))
    return isinstance(error, UserError)


def error_line(error: BaseException) -> str:
    """The line that reports an expected error.

    >>> error_line(ValueError("`seed` must be\\n a number"))
    'error: `seed` must be a number (HYDRA_FULL_ERROR=1 shows the traceback)'
    """
    return f"error: {message_of(error)} ({FULL}=1 shows the traceback)"


def message_of(error: BaseException) -> str:
    """An error's message and its notes in one line.

    >>> message_of(FileNotFoundError(2, "No such file or directory", "a\\tb.jpg"))
    "No such file or directory: 'a\\\\tb.jpg'"
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.strerror}: {error.filename!r}"
    if "Original Traceback (most recent call last)" in text:  # torch's text for an error in a worker process
        text = re.split(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", text, flags=re.MULTILINE)[-1]
    if isinstance(error, HydraException):
        text = hydra_message(error)
    hints = [hint for kind in type(error).__mro__ if (hint := LIBRARY_ERRORS.get(kind.__name__))]
    words = " ".join([text or type(error).__name__, *getattr(error, "__notes__", ())]).split()
    line = " ".join(words) + "".join(hints)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def hydra_message(error: HydraException) -> str:
    """Hydra's message about a configuration, without search paths and object types."""
    cause = error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and isinstance(cause.parent_node, DictConfig):
        held = list(map(str, cause.parent_node))
        is_open = "_target_" in held or not held  # arguments of a class, or `options: {}`
        plus = f"; an argument that conf/ does not name takes a plus, +{cause.full_key}=..." if is_open else ""
        return f"unknown key `{cause.full_key}`{suggestion(str(cause.key), held)}{plus}"
    text = str(error).partition("Config search path")[0]
    return f"{text}: {str(cause).splitlines()[0]}" if isinstance(cause, OmegaConfBaseException) else text
