"""Reads kind and size of a picture file from its header, without decoding."""

import struct
from typing import NamedTuple

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
