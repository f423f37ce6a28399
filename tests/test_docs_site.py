"""The documentation site is built strictly: a broken link or an undocumented public name fails."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs_tools import coverage
from docs_tools.docstrings import markdown

ROOT = Path(__file__).parents[1]
LINKED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "src", "docs_tools")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder to build in, with the notebooks as they are committed: they run in tests of their own."""
    pytest.importorskip("zensical", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "mkdocs.yml", folder)  # a link would lead Zensical back to the checkout
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("notebooks"))
    subprocess.run([sys.executable, ROOT / "docs_tools" / "notebooks.py", folder / "docs" / "notebooks"], check=True)
    return folder


def build(home):
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(
        command, cwd=home, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=300
    )


def test_the_site_holds_every_public_name_and_every_page(home):
    done = build(home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert coverage.problems(home / "site") == []
    for page in (home / "docs").rglob("*.md"):
        assert (home / "site" / page.relative_to(home / "docs")).with_suffix(".html").is_file(), page
    menu = (home / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(str(page.relative_to(home / "docs")) in menu for page in (home / "docs").rglob("*.md"))
    pages = "".join(page.read_text(encoding="utf-8") for page in (home / "site").rglob("*.html"))
    assert not re.findall(
        r'<(?:script|img|iframe)[^>]* src="?https?:[^>]*|<link rel="?stylesheet[^>]*https?:[^>]*', pages
    )
    # A name that is on no page is found, and so is one without a docstring, which the reference leaves out.
    models = home / "site" / "api" / "models.html"
    models.write_text(models.read_text(encoding="utf-8").replace('id="aelm.models.joined"', ""), encoding="utf-8")
    assert coverage.problems(home / "site") == [
        "aelm.models.joined is on no page of docs/api, or has no docstring",
    ]


def test_broken_links_fail(home):
    start = home / "docs" / "index.md"
    broken = "[a](nothing.md) [b](training.md#nothing) [`X`][aelm.models.Nothing]"
    start.write_text(f"{start.read_text(encoding='utf-8')}\n{broken}\n", encoding="utf-8")
    done = build(home)
    assert done.returncode != 0
    assert "3 issues found" in done.stdout + done.stderr, done.stdout + done.stderr


def test_docstrings_become_markdown():
    assert markdown("See :func:`~aelm.nearest`.\n\n>>> 1\n1\n\nEnd.") == (
        "See `aelm.nearest`.\n\n```pycon\n>>> 1\n1\n```\n\nEnd."
    )
    assert (
        markdown("    >>> f(\n    ...     1)\n    2\n") == "    ```pycon\n    >>> f(\n    ...     1)\n    2\n    ```\n"
    )
