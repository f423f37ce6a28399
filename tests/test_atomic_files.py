"""Files are written atomically, and errors state the cause."""

import io
import os

import numpy as np
import pytest
import safetensors.torch
import torch

from aelm.files import kind_of, write_file


def half_a_file(file):
    file.write(b"half a fil")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path, elsewhere):
    path = tmp_path / "new" / "metrics.json"
    temporary = tmp_path / "half" if elsewhere else None
    with pytest.raises(OSError, match=r"metrics\.json could not be written, there was none before; .*No space left"):
        write_file(path, half_a_file, temporary)
    assert os.listdir(path.parent) == []
    assert write_file(path, lambda file: file.write(b"old"), temporary) == path
    with pytest.raises(OSError, match=r"the earlier one there is still good; [\d,]+ MiB are free on that disk"):
        write_file(path, half_a_file, temporary)
    assert os.listdir(path.parent) == ["metrics.json"]
    assert path.read_bytes() == b"old"
    write_file(path, lambda file: file.write(b"new"), temporary)
    assert path.read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["new"]


def test_who_reads_the_earlier_file_reads_all_of_it(tmp_path):
    path = write_file(tmp_path / "x", lambda file: file.write(b"earlier"))
    with path.open("rb") as reader:
        write_file(path, lambda file: file.write(b"new"))
        assert reader.read() == b"earlier"
    assert path.read_bytes() == b"new"


def test_what_is_no_fault_of_the_disk_passes_and_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_file(tmp_path / "x", lambda file: 1 / 0)
    assert os.listdir(tmp_path) == []


def test_a_place_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match=r"file/deep/x could not be written.*(NotADirectory|FileExists)Error"):
        write_file(tmp_path / "file" / "deep" / "x", lambda file: None)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("number", "way_out"),
    [(28, "Make room"), (13, "No write permission"), (30, "No write permission"), (36, "a shorter name"),
     (2, "does another program write there"), (5, "Look at that disk"), (4, "Look at that disk")],
)  # fmt: skip
def test_the_way_out_fits_what_went_wrong(tmp_path, number, way_out):
    def failing(file):
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=way_out) as caught:
        write_file(tmp_path / "x", failing)
    assert ("Make room" in str(caught.value)) == (number == 28)


def test_the_kind_of_a_file_is_that_of_its_first_bytes():
    buffers = {
        "a numpy archive (.npz)": io.BytesIO(),
        "a file of torch.save": io.BytesIO(),
        "a safetensors file": io.BytesIO(),
    }
    np.savez(buffers["a numpy archive (.npz)"], a=np.ones(2))
    torch.save({"a": torch.ones(2)}, buffers["a file of torch.save"])
    buffers["a safetensors file"].write(safetensors.torch.save({"a": torch.ones(2)}))
    assert {name: kind_of(buffer.getvalue()) for name, buffer in buffers.items()} == {name: name for name in buffers}
    assert kind_of("größe,人".encode()) == kind_of("a".encode("utf-16")) == "text"
