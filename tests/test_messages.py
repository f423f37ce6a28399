"""What a command shows: its own messages, and no other library's advertisements or deprecation warnings."""

import logging
import os
import subprocess
import sys
import warnings

import pytest

from aelm.command import cli
from tests.runs import P_X_K, SMALL

BOTH = """
import sys
from aelm.evaluate.__main__ import main as evaluate
from aelm.train.__main__ import main as train
train()
sys.argv[1:] = ["checkpoint=runs/tiny/checkpoints/best.ckpt", "trainer.accelerator=cpu", "dataset.workers=0"]
evaluate()
"""


@pytest.mark.slow
def test_training_and_evaluation_show_their_own_messages_alone(people, tmp_path):
    arguments = [f"data_dir={people}", *SMALL, *P_X_K, "trainer.max_epochs=1", "figures=false", "name=tiny"]
    done = subprocess.run(
        [sys.executable, "-c", BOTH, *arguments],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    for foreign in ("Tip:", "litlogger", "deprecated", "Deprecat", "FutureWarning"):
        assert foreign not in shown, shown
    for own in ("= 4 images a step", "synthetic  train", "mAP_trapezoid", "test_occluded"):
        assert own in done.stdout, shown
    assert done.stdout.count("per cent") == 2


def test_own_warnings_and_plain_messages_pass():
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        cli.choose_messages()
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.warn_explicit(category.__name__, category, "x.py", 1, module="somebody.else")
            warnings.warn_explicit(f"aelm's {category.__name__}", category, "y.py", 1, module="aelm.module")
    assert [str(one.message) for one in seen] == [
        "aelm's FutureWarning", "aelm's DeprecationWarning", "UserWarning", "aelm's UserWarning",
    ]  # fmt: skip
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    for text, passes in (("Tip: buy this", False), ("GPU available: True", True)):
        assert bool(logger.filter(logging.makeLogRecord({"msg": text}))) == passes


def test_a_user_who_asks_for_warnings_gets_them(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cli.choose_messages()
        warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="somebody.else")
    assert len(seen) == 1
