"""``make demo-cameras`` from end to end, with the starter model: who is linked to whom, and the page in a browser."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.browser import BROWSER, Page

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of the demo, and what it printed; made by the recipe itself, in this environment."""
    home = tmp_path_factory.mktemp("demo") / "cameras"
    settings = {"CAMERAS": os.path.relpath(home, ROOT), "BIN": os.path.relpath(Path(sys.executable).parent, ROOT)}
    # -o: .venv is not made, the environment of the tests stands in for it.
    command = ["make", "-o", ".venv/.installed", "demo-cameras", *(f"{key}={value}" for key, value in settings.items())]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return home, done.stdout


@pytest.mark.faults
def test_links_are_right_and_better_than_those_of_single_pictures(demo):
    told = json.loads((demo[0] / "people" / "metrics.json").read_text())
    assert told["link/pairwise_f1"] >= 0.8  # 0.852 where it was measured; other versions of OpenCV draw other pixels
    assert told["link/pairwise_f1"] > told["single/pairwise_f1"]
    assert "Using `starter`, the built-in small model" in demo[1]


@pytest.mark.faults
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: apt-get install chromium")
def test_in_a_browser_people_stand_in_rows_and_a_click_shows_a_heat_map(demo):
    people = int(re.search(r"(\d+) people in \d+ tracks", demo[1])[1])
    with Page(demo[0] / "people" / "people.html", demo[0] / "profile") as page:
        assert page.run("document.querySelectorAll('.person').length") == people
        page.click(".hit")
        deadline = time.monotonic() + 30
        while page.run("document.getElementById('heat-b').hidden"):
            assert time.monotonic() < deadline
        for side in "ab":
            assert page.run(f"document.getElementById('heat-{side}').src").startswith("data:image/png")
