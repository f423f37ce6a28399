"""Writes files that are whole or not there."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], Any], half: Path | None = None) -> Path:
    """Lets ``write`` fill a file beside ``path`` and renames it; makes the folder where there is none.

    Whoever looks finds the earlier file or the new one, whole, whatever dies meanwhile.

    Args:
        path: The file.
        write: Fills the file that it is given.
        half: Where the file lies while it is written, on the same file system; None: beside, hidden, under a name that
            no other process takes.

    Raises:
        OSError: If it cannot be written; the earlier file is still there, and nothing lies beside it.
    """
    half = half or path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as file:
            write(file)
        os.replace(half, path)
    except OSError as error:
        kept = "the earlier one there is still good" if path.is_file() else "there was none before"
        raise OSError(
            f"{path} could not be written, {kept}; {free(path):,.0f} MiB are free on that disk. Make room, or choose "
            f"another place that can be written ({type(error).__name__}: {error})"
        ) from error
    finally:
        if half.is_file():
            half.unlink()
    return path


def free(path: Path) -> float:
    """Free space where ``path`` lies or would lie, in MiB."""
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    return shutil.disk_usage(there).free / 2**20
