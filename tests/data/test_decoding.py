"""What comes out of a file, and what is said when nothing does."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from aelm.data import decoding
from aelm.data.decoding import BadImageError, decode, pack, pack_files, planes, read_bytes

RGB = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)


def encoded(extension, image=RGB):
    """The bytes of an RGB picture in a file format."""
    done, data = cv2.imencode(extension, image[..., ::-1])
    assert done
    return data


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif"])
def test_lossless_formats_come_back_as_rgb(extension):
    np.testing.assert_array_equal(decode(encoded(extension), "x"), RGB)


def test_jpeg_equals_opencv():
    data = encoded(".jpg")
    np.testing.assert_array_equal(decode(data, "x"), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def test_grey_transparent_and_16_bit_pictures_become_8_bit_rgb():
    grey = RGB[..., 0]
    np.testing.assert_array_equal(decode(cv2.imencode(".png", grey)[1], "x"), np.dstack([grey] * 3))
    transparent = np.dstack([RGB[..., ::-1], np.full(RGB.shape[:2], 9, np.uint8)])
    np.testing.assert_array_equal(decode(cv2.imencode(".png", transparent)[1], "x"), RGB)
    deep = RGB[..., ::-1].astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(cv2.imencode(".png", deep)[1], "x"), RGB)


def test_exif_rotation_is_applied():
    upright = np.zeros((16, 8, 3), np.uint8)
    upright[:8] = 255
    data = encoded(".jpg", np.rot90(upright)).tobytes()
    # Orientation 6: turn a quarter clockwise to see it upright.
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff
    seen = decode(np.frombuffer(data[:2] + exif + data[2:], np.uint8), "x")
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright).max() < 30


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_half_a_picture_is_an_error_that_names_it(extension, share):
    data = encoded(extension)
    with pytest.raises(BadImageError, match="half/a picture"):
        decode(data[: int(len(data) * share)], "half/a picture")


def test_a_cut_off_picture_is_refused_without_asking_opencv(monkeypatch):
    # Releases of OpenCV before 5 return a picture whose lower part is grey.
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((2, 2, 3), np.uint8))
    for extension in (".jpg", ".png"):
        data = encoded(extension)
        assert decode(data, "whole").shape == (2, 2, 3)
        with pytest.raises(BadImageError, match="cut off"):
            decode(data[: len(data) - (2 if extension == ".jpg" else 8)], "cut")


def test_a_cut_off_jpeg_is_refused_though_its_small_copy_is_whole(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((2, 2, 3), np.uint8))
    small, data = encoded(".jpg").tobytes(), encoded(".jpg").tobytes()
    both = data[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + data[2:]
    assert decode(np.frombuffer(both, np.uint8), "whole").shape == (2, 2, 3)
    with pytest.raises(BadImageError, match="cut off: a JPEG"):
        decode(np.frombuffer(both[:-2], np.uint8), "cut")


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".tif"])
def test_a_huge_picture_is_refused_before_it_is_decoded(extension, monkeypatch):
    """30,000 x 30,000 pixels are 2.7 GB, which a file of a few bytes can ask for."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(
        BadImageError, match=r"'huge' says that it is 30,000 x 30,000 pixels, more than the 100,000,000"
    ):
        decode(np.frombuffer(declared(extension, 30_000), np.uint8), "huge")


def declared(extension, side):
    """A small picture whose header says that it is ``side`` x ``side``."""
    data = encoded(extension, np.zeros((515, 514, 3), np.uint8)).tobytes()
    order = {".jpg": ">H", ".png": ">I", ".bmp": "<i", ".tif": "<H"}[extension]
    height, width, new = (struct.pack(order, number) for number in (515, 514, side))
    if extension == ".tif":
        return data.replace(height, new).replace(width, new)
    old = height + width if extension == ".jpg" else width + height
    assert data.count(old) == 1
    return data.replace(old, new + new)


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"GIF89a\x08\0\x08\0", "a GIF"), (b"<html>404</html>", "a web page, as a failed download"),
         (b"\0" * 9, "9 zeros"), (b"\x07\0\x01", "3 bytes of something else"),
        (b"\0\0\0\x18ftypheic", "an HEIC picture"),
         (b"\0\0\0\x18ftypavif", "an AVIF picture"), (b"\0\0\0\x18ftypisom", r"a video \(MP4\)"),
         (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer")],
)  # fmt: skip
def test_files_of_other_kinds_are_named_and_never_reach_the_decoder(content, found, monkeypatch):
    """Which other kinds OpenCV reads depends on its release, and some of its decoders are little tried."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(BadImageError, match=rf"'x\.jpg' is no JPEG, PNG, BMP, TIFF or WebP, .* but {found}"):
        decode(np.frombuffer(content, np.uint8), "x.jpg")


def test_a_single_pixel_is_a_picture():
    np.testing.assert_array_equal(decode(encoded(".png", RGB[:1, :1]), "x"), RGB[:1, :1])


def test_other_files_are_errors(tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(BadImageError, match=r"notes\.jpg"):
        decode(read_bytes(str(tmp_path / "notes.jpg")), str(tmp_path / "notes.jpg"))
    with pytest.raises(BadImageError, match=r"absent\.jpg.*No such file"):
        read_bytes(str(tmp_path / "absent.jpg"))


@pytest.mark.parametrize("image", [RGB, RGB[:, ::-1], RGB[2:7, 1:4]])
def test_planes_equal_a_transpose(image):
    block = np.full((3, 3, *image.shape[:2]), 77, np.uint8)
    planes(image, block[1])
    np.testing.assert_array_equal(block[1], image.transpose(2, 0, 1))
    assert (block[[0, 2]] == 77).all()


def test_packed_strings_come_back():
    strings = [b"", b"a", bytes(range(256)), b""]
    assert [bytes(pack(strings).at(i)) for i in range(4)] == strings
    assert len(pack([]).data) == 0


def test_packed_files(tmp_path):
    for name, content in (("a", b"one"), ("b", b"three")):
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in ("a", "missing", "b")]
    with pytest.raises(BadImageError, match="missing"):
        pack_files(paths)
    packed = pack_files(paths, missing_is_empty=True)
    assert [bytes(packed.at(i)) for i in range(3)] == [b"one", b"", b"three"]


def encoded_with_pil(array, kind):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return np.frombuffer(stream.getvalue(), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_pictures_are_read_alike_whatever_their_brightest_pixel_is(kind, bits, caplog, monkeypatch):
    monkeypatch.setattr(decoding, "_dark", [])
    deep = np.arange(64 * 32, dtype=np.uint16).reshape(64, 32) * 32 >> (16 - bits)
    for _ in range(2):
        assert np.array_equal(decode(encoded_with_pil(deep, kind), "thermal.png")[..., 0], deep >> 8)
    assert caplog.text.count("of 65535 and is read as dark") == (bits < 16)
    bright = deep.copy()
    bright[0, 0] = 2**16 - 1
    found = decode(encoded_with_pil(bright, kind), "thermal.png")[..., 0]
    assert found[0, 0] == 255
    assert np.array_equal(found.ravel()[1:], deep.ravel()[1:] >> 8)


@pytest.mark.parametrize(("dtype", "word"), [(np.float32, "float32"), (np.int32, "int32")])
def test_a_tiff_of_other_values_is_called_so_and_not_broken(dtype, word):
    content = encoded_with_pil(np.ones((64, 32), dtype), "TIFF")
    with pytest.raises(BadImageError, match=f"'f.tif' is a TIFF of {word} values, expected 8 or 16 bits"):
        decode(content, "f.tif")
