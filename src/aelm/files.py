"""Whole files: written so that they are there or not, to places that were looked at before the work."""

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


def check_folder(path: str | Path, key: str = "output") -> Path:
    """The folder to write to, which need not be there yet; nothing is made.

    Args:
        path: As the user wrote it.
        key: What errors call it.

    Raises:
        NotADirectoryError: If a file stands there, or on the way there.
        PermissionError: If it may not be written to.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(
            f"`{key}` must be a folder, {path} is a file; name another one, or a new one in {path.parent}"
        )
    _check_way(path, path, key)
    return path


def check_file(path: str | Path, key: str = "output") -> Path:
    """The file to write, which need not be there yet, nor its folder; nothing is made.

    Args:
        path: As the user wrote it.
        key: What errors call it.

    Raises:
        IsADirectoryError: If a folder stands there.
        NotADirectoryError: If a file stands on the way there.
        PermissionError: If its folder may not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"`{key}` must be a file, {path} is a folder; name a file in it, or another one")
    _check_way(path.parent, path, key)
    return path


def _check_way(folder: Path, path: Path, key: str) -> None:
    """Looks at the nearest place above that exists: there the rest would be made."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"`{key}`: {path} cannot be made, {there} is a file and no folder; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"`{key}`: {path} cannot be written, {there} is closed to this user; name another place")
