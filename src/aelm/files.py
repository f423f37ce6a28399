"""Files: kinds by first bytes, spellings of paths, locks, and atomic writes."""

import codecs
import errno
import glob
import hashlib
import logging
import os
import platform
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from aelm.types import RunError

log = logging.getLogger(__name__)

LOCK = ".aelm.lock"  # in a locked folder; the lock of a file is named after the file
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # errors of file systems without locks
PATIENCE = 1.0  # seconds: a killed process may release its lock a little later

# Byte offset, content at that offset, and the kind of file.
BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"MATLAB 5.0", "a Matlab file"),
    (0, b"MATLAB 7.3", "a Matlab 7.3 file"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"\x80\x02", "a pickle"),
    (0, b"\x80\x03", "a pickle"),
    (0, b"\x80\x04", "a pickle"),
    (0, b"\x80\x05", "a pickle"),
    (0, b"\xff\xd8\xff", "a JPEG"),
    (0, b"\x89PNG", "a PNG"),
    (0, b"GIF8", "a GIF"),
    (0, b"8BPS", "a Photoshop picture"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (4, b"ftypavi", "an AVIF picture"),
    (4, b"ftyphe", "an HEIC picture"),
    (4, b"ftypmif1", "an HEIC picture"),
    (4, b"ftyp", "a video (MP4)"),
    (8, b"AVI ", "a video (AVI)"),
    (128, b"DICM", "a DICOM picture"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x1f\x8b", "a gzip archive, which must be unpacked"),
    (0, b"7z\xbc\xaf", "a 7z archive, which must be unpacked"),
    (0, b"Rar!", "a RAR archive, which must be unpacked"),
    (257, b"ustar", "a tar archive, which must be unpacked"),
    (0, b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
    (0, b"<!DOCTYPE html", "a web page, as a failed download leaves it"),
    (0, b"<html", "a web page, as a failed download leaves it"),
)
# The kind of a zip archive, by its first entry.
ZIPS = {
    "data.pkl": "a file of torch.save",
    ".npy": "a numpy archive (.npz)",
    "[Content_Types].xml": "an Excel workbook",
}


def kind_of(content: bytes) -> str:
    """The kind of a file from its first bytes, regardless of its name; empty if unknown.

    Args:
        content: The file, or its first 512 bytes or more.

    >>> kind_of(b"MATLAB 5.0 MAT-file, Platform"), kind_of(b""), kind_of(b"path,pid"), kind_of(b"\\x07\\x00\\x01")
    ('a Matlab file', 'an empty file (0 bytes)', 'text', '')
    """
    head = content[:512]
    if not head.strip(b"\0"):
        return f"{len(content):,} zeros, as a broken copy leaves them" if content else "an empty file (0 bytes)"
    if head.startswith(b"PK\x03\x04"):
        first = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", "replace")
        return next((kind for end, kind in ZIPS.items() if first.endswith(end)), "a zip archive")
    for at, begin, kind in BEGINNINGS:
        if head[at : at + len(begin)].lower() == begin.lower():
            return kind
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "a safetensors file"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "text"
    return "" if any(byte < 32 and byte not in b"\t\n\v\f\r\x1b" for byte in head) else "text"


def on_disk(path: str | Path) -> Path:
    """The file or folder of this name, also if it is spelt differently on disk; ``path`` itself if there is none.

    Other spellings are Windows separators, another case, accents as one or two characters (macOS), and characters in
    Windows encoding. One is used only if it is the only match.
    """
    path = Path(path)
    if os.path.lexists(path):
        return path
    if "\\" in str(path):
        turned = on_disk(str(path).replace("\\", "/"))
        if turned.exists():
            return turned
    parent = path.parent if path.parent == path or path.parent.exists() else on_disk(path.parent)
    if not parent.is_dir():
        return path
    found = _spellings(parent, parent.stat().st_mtime_ns).get(_spelling(path.name), [])
    return parent / found[0] if len(found) == 1 else path


@lru_cache(maxsize=16)
def _spellings(folder: Path, changed: int) -> dict[str, list[str]]:
    """The names in a folder by their normalised spelling; ``changed`` is its modification time, for the cache."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        found.setdefault(_spelling(name), []).append(name)
    return found


def _spelling(name: str) -> str:
    """The normalised form of all spellings of a name."""
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:  # bytes that are not UTF-8
            name = os.fsencode(name).decode("cp1252", "replace")
        name = unicodedata.normalize("NFC", name)
    return name.casefold()


# Advice for a file that cannot be written, by error number.
_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "No write permission: choose another place"),
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOENT: "Its folder was removed meanwhile: does another program write there?",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "A file is in the place of a folder: choose another place"),
}


def matching(pattern: str) -> list[str]:
    """The files that match a pattern such as ``crops/*.jpg``, sorted; without a match, brackets are taken literally."""
    found = sorted(glob.glob(pattern, recursive=True))
    return found or sorted(glob.glob(pattern.replace("[", "[[]"), recursive=True))


def write_file(path: Path, write: Callable[[BinaryIO], Any], temporary: Path | None = None) -> Path:
    """Writes a file atomically: ``write`` fills a temporary file, which is then renamed to ``path``. Makes the folder.

    Readers find either the old or the new complete file, even after a crash.

    Args:
        path: The file.
        write: Writes the content to the file that it gets.
        temporary: The temporary file, on the same file system; None for a hidden, uniquely named file beside ``path``.

    Raises:
        OSError: If it cannot be written; the old file is kept and the temporary file removed.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        kept = "the earlier one there is still good" if path.is_file() else "there was none before"
        way_out = _WAYS_OUT.get(error.errno or 0, "Look at that disk, or choose another place")
        raise OSError(
            f"{path} could not be written, {kept}; {free(path):,.0f} MiB are free on that disk. {way_out} "
            f"({type(error).__name__}: {error})"
        ) from error
    finally:
        if temporary.is_file():
            temporary.unlink()
    return path


def free(path: Path) -> float:
    """Free space on the file system of ``path`` (which need not exist), in MiB."""
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    return shutil.disk_usage(there).free / 2**20


def digest(files: Iterable[tuple[str, str]]) -> str:
    """A digest of the names and sizes of files, in their order.

    Args:
        files: Name and path of each; the path is not part of the digest.
    """
    found = hashlib.sha256()
    for name, path in files:
        size = os.stat(path).st_size if os.path.isfile(path) else -1
        found.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:32]


def check_folder(path: str | Path, key: str = "output") -> Path:
    """Checks the folder to write to, which need not exist; creates nothing.

    Args:
        path: As the user wrote it.
        key: What errors call it.

    Raises:
        NotADirectoryError: If it or one of its parents is a file.
        PermissionError: If it is not writable.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(
            f"`{key}` must be a folder, {path} is a file; name another one, or a new one in {path.parent}"
        )
    _check_way(path, path, key)
    return path


def check_file(path: str | Path, key: str = "output") -> Path:
    """Checks the file to write; it and its folder need not exist; creates nothing.

    Args:
        path: As the user wrote it.
        key: What errors call it.

    Raises:
        IsADirectoryError: If it is a folder.
        NotADirectoryError: If one of its parents is a file.
        PermissionError: If its folder is not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"`{key}` must be a file, {path} is a folder; name a file in it, or another one")
    _check_way(path.parent, path, key)
    return path


def _check_way(folder: Path, path: Path, key: str) -> None:
    """Checks the nearest existing parent, in which the rest would be created."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"`{key}`: {path} cannot be made, {there} is a file and no folder; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"`{key}`: {path} cannot be written, no write permission in {there}; name another place")


@contextmanager
def hold_folder(path: str | Path | None, key: str = "output") -> Iterator[bool]:
    """Locks a folder for the block, so no other process writes to it; creates it if it does not exist.

    The system releases the lock of a killed process. A folder created here that is empty at the end is removed. If the
    file system has no locks, a warning says so and nothing is locked.

    Args:
        path: As the user wrote it; None: nothing is written, and nothing held.
        key: What errors call it, and what the user may change.

    Yields:
        Whether it is locked.

    Raises:
        RunError: If another process holds the lock; nothing is changed then.
        OSError: As :func:`check_folder`.
    """
    if path is None:
        yield False
        return
    folder = check_folder(path, key)
    with _held(folder / LOCK, folder, key, PATIENCE) as is_held:
        yield is_held


@contextmanager
def hold_file(path: str | Path | None, key: str = "output", *, wait: bool = False) -> Iterator[bool]:
    """Locks a file, or a folder that is written atomically, like :func:`hold_folder`, by a lock file beside it.

    Args:
        path: As the user wrote it; None: nothing is written, and nothing held.
        key: What errors call it, and what the user may change.
        wait: Whether to wait for another process that holds the lock, instead of raising an error.
    """
    if path is None:
        yield False
        return
    path = Path(path)
    with _held(path.with_name(f".{path.name}.lock"), path, key, -1 if wait else PATIENCE) as is_held:
        yield is_held


@contextmanager
def _held(lock: Path, place: Path, key: str, seconds: float) -> Iterator[bool]:
    from filelock import FileLock, Timeout  # imported here: a command that writes nothing needs none

    made = [folder for folder in lock.parents if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Writable for all: otherwise a lock file left by another user's killed process blocks us.
    taken, is_held = FileLock(lock, mode=0o666, fallback_to_soft=False), False
    try:
        taken.acquire(timeout=seconds)
        is_held = True
    except Timeout:
        raise RunError(f"`{key}`: {place} is in use by {_holder(lock)}. Wait for its end, or change `{key}`") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s lies on a file system without locks: nothing keeps other processes from writing there", place)
    try:
        if is_held:
            with suppress(OSError):  # Windows denies access to a locked file even to its holder
                holder = f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
                lock.write_text(holder, encoding="utf-8")
        yield is_held
    finally:
        with suppress(OSError):
            lock.unlink()  # while locked: a waiting process sees that it is gone, and creates a new one
        taken.release()
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _holder(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
