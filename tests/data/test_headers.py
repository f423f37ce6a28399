"""What files say of themselves, against what decoders find in them."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from aelm.data.decoding import Header, read_header

KINDS = {
    "JPEG": ("JPEG", {}),
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "CMYK JPEG": ("JPEG", {}),
    "PNG": ("PNG", {}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {}),
    "TIFF with LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "WebP": ("WEBP", {"quality": 50}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "WebP with transparency": ("WEBP", {"quality": 50}),
    "GIF": ("GIF", {}),
}


def saved(name, height, width):
    """A picture of noise as Pillow writes it."""
    kind, options = KINDS[name]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    image = image.convert("CMYK") if "CMYK" in name else image.convert("RGBA") if "transparency" in name else image
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 700), (513, 2)])
def test_kind_and_size_are_those_that_were_written(name, height, width):
    found = read_header(saved(name, height, width))
    assert (found.kind.upper(), found.height, found.width) == (KINDS[name][0], height, width)


def test_both_byte_orders_of_tiff():
    """Tags of which the size is a long, in a file from a big-endian machine."""
    big = struct.pack(">2sHIH HHII HHII", b"MM", 42, 8, 2, 256, 4, 1, 30, 257, 4, 1, 20)
    assert read_header(big)[:3] == ("TIFF", 20, 30)


def test_old_bitmaps_and_those_from_top_to_bottom():
    assert read_header(b"BM" + bytes(12) + struct.pack("<IHH", 12, 30, 20))[:3] == ("BMP", 20, 30)
    assert read_header(b"BM" + bytes(12) + struct.pack("<Iii", 40, 30, -20))[:3] == ("BMP", 20, 30)


def test_a_jpegs_small_copy_of_itself_is_not_taken_for_it():
    small, whole = saved("JPEG", 4, 6), saved("JPEG", 40, 60)
    content = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small + b"\xff" + whole[2:]  # padded
    found = read_header(content)
    assert (found.height, found.width) == (40, 60)
    assert found.begin > content.find(small) + len(small)
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape == (40, 60, 3)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_cut_off_says_nothing_false(name):
    """At whatever byte; a kind is known by its first bytes, a size is right or 0."""
    content = saved(name, 30, 20)
    for length in range(0, min(len(content), 700)):
        found = read_header(content[:length])
        assert found.kind.upper() in ("", KINDS[name][0])
        assert (found.height, found.width) in ((30, 20), (0, 0), (30, 0), (0, 20))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\0", b"<html>", bytes(50), b"RIFF1234WAVE"]
)
def test_other_files_have_no_size(content):
    assert read_header(content)[1:3] == (0, 0)
    assert read_header(b"hello") == Header("")
