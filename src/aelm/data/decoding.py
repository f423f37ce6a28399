"""Reads a picture's header, decodes files to RGB arrays, and packs many files into one block of memory."""

import logging
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.files import kind_of
from aelm.types import InputError

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
}
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # frame header markers of a JPEG
ALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length


class Header(NamedTuple):
    """The header of a picture file.

    Attributes:
        kind: ``JPEG``, ``PNG``, ``BMP``, ``TIFF``, ``WebP`` or ``GIF``; empty for anything else.
        height: Height in pixels, before EXIF rotation; 0 if unknown.
        width: Likewise.
        begin: Byte position of the size; a JPEG's embedded thumbnail comes before it.
    """

    kind: str
    height: int = 0
    width: int = 0
    begin: int = 0


def read_header(content: bytes) -> Header:
    """The header of an encoded picture; the size is 0 if it is cut off or broken.

    >>> read_header(b"GIF89a\\x20\\0\\x40\\0")
    Header(kind='GIF', height=64, width=32, begin=6)
    >>> read_header(b"no picture").kind
    ''
    """
    kind = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), "")
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "WebP"
    read = {"JPEG": _jpeg, "PNG": _png, "BMP": _bmp, "TIFF": _tiff, "WebP": _webp, "GIF": _gif}.get(kind)
    if read is None:
        return Header("")
    try:
        height, width, begin = read(content)
    except (struct.error, IndexError):
        return Header(kind)
    return Header(kind, height, width, begin)


def _jpeg(content: bytes) -> tuple[int, int, int]:
    at = 2
    while True:
        if content[at] != 0xFF:
            return 0, 0, 0
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return height, width, at
        else:
            at += 2 if marker in ALONE else 2 + struct.unpack_from(">H", content, at + 2)[0]


def _png(content: bytes) -> tuple[int, int, int]:
    width, height = struct.unpack_from(">II", content, 16)
    return height, width, 16


def _bmp(content: bytes) -> tuple[int, int, int]:
    old = struct.unpack_from("<I", content, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", content, 18)
    return abs(height), abs(width), 18  # a negative height means top to bottom


def _tiff(content: bytes) -> tuple[int, int, int]:
    order = "<" if content.startswith(b"II") else ">"
    (first,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, first)
    sizes = {256: 0, 257: 0}  # tags of width and height
    for at in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", content, at)
        if tag in sizes:
            (sizes[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), content, at + 8)
    return sizes[257], sizes[256], first


def _webp(content: bytes) -> tuple[int, int, int]:
    chunk = content[12:16]
    if chunk == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    return height, width, 20


def _gif(content: bytes) -> tuple[int, int, int]:
    width, height = struct.unpack_from("<HH", content, 6)
    return height, width, 6


Pixels = NDArray[np.uint8]
KINDS = ("JPEG", "PNG", "BMP", "TIFF", "WebP")
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
DEEP = ("PNG", "TIFF")  # may have more than 8 bits
MOST_PIXELS = 100_000_000  # 300 MB decoded; no crop of a person is that large


log = logging.getLogger(__name__)
_dark: list[str] = []  # the first dark 16-bit picture of this process


class BadImageError(InputError):
    """An unreadable picture; the message names the file."""


def read_bytes(path: str) -> Pixels:
    """The encoded bytes of a file, ``(length,)`` uint8.

    Raises:
        BadImageError: If the file is missing or not readable.
    """
    try:
        with open(path, "rb") as file:
            return np.frombuffer(file.read(), dtype=np.uint8)
    except OSError as error:
        raise BadImageError(f"Cannot read the picture {path!r}: {error.strerror or error}") from error


def decode(encoded: Pixels, name: str) -> Pixels:
    """Decodes a picture to ``(H, W, 3)`` uint8 RGB.

    Grey pictures get three equal channels, transparency is dropped. 16 bits are reduced to the upper 8, as
    OpenCV does, whatever a picture's own values are; the first one that stays dark is logged. EXIF rotation is applied,
    as image viewers do; no benchmark uses it.

    Args:
        encoded: ``(length,)`` uint8, content of the file.
        name: Name of the picture in errors.

    Raises:
        BadImageError: If this is not a picture, is cut off, or has more than ``MOST_PIXELS`` (then it is not decoded).
    """
    if not len(encoded):
        raise BadImageError(f"The picture {name!r} is an empty file (0 bytes)")
    kind = check_header(encoded.tobytes(), name).kind
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_ANYDEPTH if kind in DEEP else 0)
    try:
        image = cv2.imdecode(encoded, flags)
        if image is None and kind in DEEP:
            image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImageError(f"Cannot decode the picture {name!r} ({len(encoded)} bytes): {error}") from error
    if image is None:
        raise BadImageError(f"Cannot decode the picture {name!r}: its {len(encoded)} bytes are broken or cut off")
    if image.dtype == np.uint16:
        image = upper_bits(image, name)
    if image.dtype != np.uint8:
        raise BadImageError(
            f"The picture {name!r} is a {kind} of {image.dtype} values, expected 8 or 16 bits: save it as such, scaled"
        )
    pixels: Pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return pixels


def upper_bits(image: NDArray[np.uint16], name: str) -> Pixels:
    """The upper 8 bits of a 16-bit picture; the first one that uses 14 bits or fewer is logged."""
    if not _dark and int(image.max()) < 2**14:
        _dark.append(name)
        log.warning(
            "The 16-bit picture %r has no value above %d of 65535 and is read as dark, as are others like it. If they "
            "hold fewer bits, as thermal cameras write, scale them to 16 bits, all by one factor",
            name, image.max(),
        )  # fmt: skip
    return (image >> 8).astype(np.uint8)


def check_header(content: bytes, name: str) -> Header:
    """Raises BadImageError for files that must not be decoded: other formats, cut-off or huge pictures."""
    header = read_header(content)
    if header.kind not in KINDS:
        kind = kind_of(content)
        found = f"a {header.kind}" if header.kind else kind or f"{len(content)} bytes of something else"
        raise BadImageError(
            f"The picture {name!r} is no {', '.join(KINDS[:-1])} or {KINDS[-1]}, whatever its name says, but {found}. "
            "Convert it to one of these, or remove it"
        )
    # Some releases of OpenCV decode a cut-off picture and fill the rest with grey.
    end = ENDS.get(header.kind)
    if end is not None and content.rfind(end) < header.begin:
        raise BadImageError(
            f"The picture {name!r} is cut off: a {header.kind} of {len(content)} bytes without its end marker"
        )
    if header.height * header.width > MOST_PIXELS:
        raise BadImageError(
            f"The picture {name!r} says that it is {header.width:,} x {header.height:,} pixels, more than the "
            f"{MOST_PIXELS:,} that are decoded. Make it smaller, or remove it"
        )
    return header


def decoding_error(path: str) -> str:
    """Why a picture cannot be read."""
    try:
        decode(read_bytes(path), path)
    except BadImageError as error:
        return str(error)
    return f"Could not read the picture {path!r} when it was tried; it can be read now"


def planes(image: Pixels, into: Pixels) -> None:
    """Copies ``(H, W, 3)`` to a contiguous ``(3, H, W)``; three times faster than numpy's strided copy.

    >>> planes(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), into := np.empty((3, 2, 2), np.uint8))
    >>> into[:, 0, 1].tolist()
    [3, 4, 5]
    """
    # OpenCV writes to arrays of the right size in place.
    cv2.split(np.ascontiguousarray(image), list(into))


class Packed(NamedTuple):
    """Many byte strings as two tensors shared by worker processes.

    A list of Python objects would gradually be copied to every worker, since reference counting writes to its pages.

    Attributes:
        data: ``(total,)`` uint8, all strings concatenated.
        bounds: ``(n + 1,)`` int64; string i is ``data[bounds[i]:bounds[i + 1]]``.
    """

    data: Tensor
    bounds: Tensor

    def at(self, index: int) -> Pixels:
        """String ``index`` as ``(length,)`` uint8, a view."""
        first, last = self.bounds[index : index + 2].tolist()
        view: Pixels = self.data[first:last].numpy()
        return view


def pack(strings: Iterable[bytes | Pixels]) -> Packed:
    """Joins byte strings.

    >>> bytes(pack([b"a", b"", b"bcd"]).at(2))
    b'bcd'
    """
    block, lengths = bytearray(), [0]
    for string in strings:
        block += string.data if isinstance(string, np.ndarray) else string
        lengths.append(len(string))
    data = torch.frombuffer(block, dtype=torch.uint8) if block else torch.empty(0, dtype=torch.uint8)
    return Packed(data, torch.tensor(lengths).cumsum(0))


def pack_files(paths: Sequence[str], *, missing_is_empty: bool = False) -> Packed:
    """Reads the encoded content of all files, in order.

    Args:
        paths: The files.
        missing_is_empty: Stores no bytes for an unreadable file instead of raising.

    Raises:
        BadImageError: If a file cannot be read.
    """

    def content(path: str) -> Pixels:
        try:
            return read_bytes(path)
        except BadImageError:
            if missing_is_empty:
                return np.empty(0, np.uint8)
            raise

    return pack(map(content, paths))
