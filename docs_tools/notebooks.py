"""Turns the notebooks into pages of the documentation site: python docs_tools/notebooks.py docs/notebooks [--run]

With --run each is run first and its page shows what it printed and drew; without, it shows text and code.
"""

import argparse
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def page(path: Path, folder: Path, *, run: bool) -> None:
    """Writes the page of one notebook, and its pictures beside it."""
    notebook = nbformat.read(path, as_version=4)
    if run:
        with tempfile.TemporaryDirectory() as home:
            NotebookClient(
                notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": home}}
            ).execute()
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"unique_key": path.stem, "output_files_dir": path.stem}
    )
    for name, content in resources["outputs"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / f"{path.stem}.md").write_text(re.sub(r"\((\w+)\.ipynb\)", r"(\1.md)", text), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the pages")
    parser.add_argument("--run", action="store_true", help="run each notebook first")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page(path, options.folder, run=options.run)
