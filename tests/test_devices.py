"""The device policy: what has been set for training does not reach what is computed in full precision."""

import threading

import pytest
import torch

from aelm.devices import block_memory, full_precision
from aelm.retrieval.blocks import threads

BACKENDS = {
    "CUDA products": torch.backends.cuda.matmul,
    "cuDNN convolutions": torch.backends.cudnn.conv,
    "oneDNN products": torch.backends.mkldnn.matmul,
    "oneDNN convolutions": torch.backends.mkldnn.conv,
}


def precisions():
    return [backend.fp32_precision for backend in BACKENDS.values()]


@pytest.fixture(autouse=True)
def _as_before():
    before = precisions()
    yield
    torch.set_float32_matmul_precision("highest")
    for backend, precision in zip(BACKENDS.values(), before, strict=True):
        backend.fp32_precision = precision


def newer_interface():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


@pytest.mark.parametrize(
    "choose", [lambda: None, lambda: torch.set_float32_matmul_precision("medium"), newer_interface]
)
def test_everything_is_in_full_precision_and_then_as_it_was(choose):
    choose()
    before = precisions()
    with full_precision():
        assert precisions() == ["ieee"] * 4
    assert precisions() == before


def test_an_error_leaves_settings_as_they_were():
    newer_interface()
    before = precisions()
    with pytest.raises(ZeroDivisionError), full_precision():
        1 / 0  # noqa: B018
    assert precisions() == before


def test_full_precision_lasts_until_the_last_thread_leaves():
    newer_interface()
    before, inside = precisions(), []
    entered, left = threading.Event(), threading.Event()

    def stay_longer():
        with full_precision():
            entered.set()
            left.wait(10)
            inside.append(precisions())

    thread = threading.Thread(target=stay_longer)
    with full_precision():
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert inside == [["ieee"] * 4]
    assert precisions() == before


def test_one_thread_issues_work_on_a_gpu():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for device, count in (("cpu", 3), ("cuda:0", 1)):
            with threads(torch.device(device)) as team:
                assert team.threads == count
    finally:
        torch.set_num_threads(before)


def test_blocks_take_a_share_of_what_a_gpu_has_free(monkeypatch):
    """What torch holds and does not use is free too."""
    cuda = {"mem_get_info": (5 * 2**30, 10 * 2**30), "memory_reserved": 4 * 2**30, "memory_allocated": 2**30}
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert block_memory(torch.device("cuda", 1)) == 2048
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 10 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**30)
    assert block_memory(torch.device("cuda", 1)) == 32  # not one row at a time
    assert block_memory(torch.device("cpu")) == 256
