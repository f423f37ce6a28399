"""Memory does not grow with the number of evaluations, nor of epochs."""

import statistics

import pytest

from tests.faults import jobs
from tests.faults.apart import apart
from tests.pictures_on_disk import save_model

pytestmark = pytest.mark.faults
# First a process grows: libraries are loaded when they are needed, allocators and kernels fill their caches.
WARM_UP = 10  # of the samples


def growth(found):
    """How much more is held in the last samples than in as many after the warm-up, as a share."""
    first, last = found[WARM_UP : WARM_UP + 5], found[-5:]
    return statistics.median(last) / statistics.median(first) - 1


def test_three_hundred_evaluations(people, tmp_path):
    on = ["dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny", f"data_dir={people}", "dataset.workers=0"]
    model = save_model(tmp_path / "model.ckpt")
    found = apart(jobs.evaluates_often, 300, 6, model, tmp_path / "out", *on, "bootstrap=10")
    assert len(found) == 50
    assert growth(found) < 0.02, found


def test_fifty_epochs(people, tmp_path):
    found = apart(jobs.trains_long, people, tmp_path / "run", "trainer.max_epochs=50")
    assert len(found) == 50
    assert growth(found) < 0.02, found
