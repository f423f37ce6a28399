"""onnxruntime reports to nobody, unless it is allowed to."""

import os


def keep_to_itself() -> None:
    """Asks onnxruntime to report to nobody; before anything imports it, the exporters of torch too.

    1.32 would keep a number of the machine in the home directory, and send reports; ``ORT_DISABLE_TELEMETRY=0`` lets
    it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
