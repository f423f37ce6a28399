"""Fails where a public name is missing from a built site or has no docstring: python docs_tools/coverage.py site

Public are the names in ``__all__`` of the packages below, and what the README, the guides and the notebooks import.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("data", "data.benchmarks", "data.synthetic", "figures", "models", "retrieval")
PACKAGES = ("aelm", *(f"aelm.{part}" for part in PARTS))
IMPORT = re.compile(r"^ *\"?from (aelm[\w.]*) import ([\w, ]+)", re.MULTILINE)


def public_names() -> Iterator[tuple[str, str]]:
    """Pairs of module and name."""
    for package in PACKAGES:
        yield from ((package, name) for name in importlib.import_module(package).__all__)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]:
        for module, names in IMPORT.findall(page.read_text(encoding="utf-8")):
            yield from ((module, name.strip()) for name in names.split(","))


def problems(site: Path) -> list[str]:
    """What is wrong with the reference in a built site, a line a name."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "api").rglob("*.html"))
    anchors = set(re.findall(r'id="([\w.]+)"', pages))
    found = []
    for module, name in sorted(set(public_names())):
        value = getattr(importlib.import_module(module), name)
        # A class or function may stand on the page of its module or of the package around it; a constant knows neither.
        home = getattr(value, "__module__", None)
        homes = {module, home, home.rpartition(".")[0]} if home else {a.rpartition(".")[0] for a in anchors}
        places = {f"{place}.{name}" for place in homes}
        if not places & anchors:
            found.append(f"{module}.{name} is on no page of docs/api, or has no docstring")
        elif callable(value) and not value.__doc__:
            found.append(f"{module}.{name} has no docstring")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems(Path(sys.argv[1]))) or None)
