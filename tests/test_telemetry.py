"""onnxruntime is asked not to report, unless somebody said otherwise."""

import os

import pytest

from aelm.models.onnx import keep_to_itself


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_the_switch_is_set_where_nobody_set_it(monkeypatch, before, after):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if before is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", before)
    keep_to_itself()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == after
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
