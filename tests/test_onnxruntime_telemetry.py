"""onnxruntime's telemetry is disabled, unless the environment variable is already set."""

import os

import pytest

from aelm.models.onnx import disable_telemetry


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_the_switch_is_set_where_nobody_set_it(monkeypatch, before, after):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if before is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", before)
    disable_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == after
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
