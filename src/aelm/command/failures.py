"""Error reporting of the commands: one line for expected errors, the full traceback for bugs."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from aelm.command.schema import suggestion
from aelm.types import UserError

FULL = "HYDRA_FULL_ERROR"  # Hydra's variable: with 1 every error shows its full traceback
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
        return f"unknown key `{cause.full_key}`{suggestion(str(cause.key), list(map(str, cause.parent_node)))}"
    text = str(error).partition("Config search path")[0]
    return f"{text}: {str(cause).splitlines()[0]}" if isinstance(cause, OmegaConfBaseException) else text
