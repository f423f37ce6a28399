"""Whether a result can be written where it shall go, asked before the work and not after it."""

import os
from pathlib import Path


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
