"""Files: what they are by their first bytes, where they lie, who holds them, and written whole or not at all."""

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

LOCK = ".aelm.lock"  # in a folder that is held; beside a file it is named after the file
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # said by file systems without locks
PATIENCE = 1.0  # seconds: a process that has just been killed may take a moment to let go

# How a file begins, from which byte on, and what it then is.
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
    (0, b"version https://git-lfs", "a Git LFS pointer, whose file `git lfs pull` brings"),
    (0, b"<!DOCTYPE html", "a web page, as a failed download leaves it"),
    (0, b"<html", "a web page, as a failed download leaves it"),
)
# What the first file of a zip archive tells of it.
ZIPS = {
    "data.pkl": "a file of torch.save",
    ".npy": "a numpy archive (.npz)",
    "[Content_Types].xml": "an Excel workbook",
}


def kind_of(content: bytes) -> str:
    """What a file is, from its first bytes, whatever its name says; empty where that cannot be told.

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
    """The file or folder of this name, also where the disk has it in another writing; ``path`` itself if there is none.

    Other writings are Windows's separators, another case, accents in one character or two (macOS), and letters of
    Windows's own encoding. One is taken only where it alone fits.
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
    """The names in a folder, which was last changed then, by what all their writings share."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        found.setdefault(_spelling(name), []).append(name)
    return found


def _spelling(name: str) -> str:
    """What all writings of a name share."""
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:  # bytes that are no UTF-8
            name = os.fsencode(name).decode("cp1252", "replace")
        name = unicodedata.normalize("NFC", name)
    return name.casefold()


# What to do about a file that cannot be written, by the error's number.
_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "It is closed to this user: choose another place"),
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOENT: "Its folder was taken away meanwhile: does another program write there?",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "A file stands where a folder must be: choose another place"),
}


def matching(pattern: str) -> list[str]:
    """What a pattern such as ``crops/*.jpg`` finds, sorted; brackets that fit nothing are those of a name."""
    found = sorted(glob.glob(pattern, recursive=True))
    return found or sorted(glob.glob(pattern.replace("[", "[[]"), recursive=True))


def write_file(path: Path, write: Callable[[BinaryIO], Any], half: Path | None = None) -> Path:
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
        way_out = _WAYS_OUT.get(error.errno or 0, "Look at that disk, or choose another place")
        raise OSError(
            f"{path} could not be written, {kept}; {free(path):,.0f} MiB are free on that disk. {way_out} "
            f"({type(error).__name__}: {error})"
        ) from error
    finally:
        if half.is_file():
            half.unlink()
    return path


def free(path: Path) -> float:
    """Free space where ``path`` lies or would lie, in MiB."""
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    return shutil.disk_usage(there).free / 2**20


def digest(files: Iterable[tuple[str, str]]) -> str:
    """A digest of what some files are called and how large they are, in their order.

    Args:
        files: What to call each, and where it lies; the place is no part of the digest.
    """
    found = hashlib.sha256()
    for name, path in files:
        size = os.stat(path).st_size if os.path.isfile(path) else -1
        found.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:32]


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


@contextmanager
def hold_folder(path: str | Path | None, key: str = "output") -> Iterator[bool]:
    """Holds a folder for the block, so that no other process writes there meanwhile; makes it where there is none.

    The system frees what a killed process held. A folder that was made for this and is still empty at the end goes
    again. Where the file system has no locks a warning says so, and nothing is held.

    Args:
        path: As the user wrote it; None: nothing is written, and nothing held.
        key: What errors call it, and what the user may change.

    Yields:
        Whether it is held.

    Raises:
        RunError: If another process holds it; nothing has been touched then.
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
    """Holds a file, or a folder that appears whole, as :func:`hold_folder` does, by a lock beside it.

    Args:
        path: As the user wrote it; None: nothing is written, and nothing held.
        key: What errors call it, and what the user may change.
        wait: Whether to wait for another process that holds it, instead of an error.
    """
    if path is None:
        yield False
        return
    path = Path(path)
    with _held(path.with_name(f".{path.name}.lock"), path, key, -1 if wait else PATIENCE) as is_held:
        yield is_held


@contextmanager
def _held(lock: Path, place: Path, key: str, seconds: float) -> Iterator[bool]:
    from filelock import FileLock, Timeout  # late: a command that writes nothing needs none

    made = [folder for folder in lock.parents if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Anyone may write to the lock, or one that another user's killed process has left would stay closed to us.
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
            with suppress(OSError):  # Windows closes a locked file also to its holder
                told = f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
                lock.write_text(told, encoding="utf-8")
        yield is_held
    finally:
        with suppress(OSError):
            lock.unlink()  # while it is held: who waits for it sees that it is gone, and makes a new one
        taken.release()
        for folder in made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _holder(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
