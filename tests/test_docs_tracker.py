"""Every example of the document on trackers runs, where the package that it is for is installed."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.pictures_on_disk import save_model

TEXT = (Path(__file__).parents[1] / "docs" / "tracker.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PRINTED = {"": r"\(3, \d+\) \[1\.\s+0\.7\s+0\.\s*\]", "supervision": r"\[2 1\]", "boxmot": r"\[\s*\d\.\s+\d\.\]"}


@pytest.mark.parametrize(("package", "code"), EXAMPLES, ids=[package or "alone" for package, _ in EXAMPLES])
def test_an_example_runs(package, code, tmp_path, monkeypatch, capsys):
    if package:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "best.ckpt")
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    cv2.imwrite("frame.jpg", cv2.resize(frame, (300, 200)))
    exec(compile(code, "tracker.md", "exec"), {})
    assert re.fullmatch(PRINTED[package], capsys.readouterr().out.strip().splitlines()[-1])


def test_there_is_an_example_each():
    assert [package for package, _ in EXAMPLES] == list(PRINTED)
