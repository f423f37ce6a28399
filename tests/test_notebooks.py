"""The notebooks run from top to bottom, anywhere, and are committed as they were written: without outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = [pytest.param(path, id=path.stem) for path in PATHS]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebooks_are_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_links_of_notebooks_lead_somewhere(path):
    prose = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)#]+)\)", prose) + [f"../{name}" for name in re.findall(r"`(src/\S+?)`", prose)]
    assert targets
    for target in targets:
        assert (path.parent / target).exists(), target
    assert path.name in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_notebooks_run_from_another_folder(people, tmp_path, tmp_path_factory, monkeypatch):
    """In one kernel, which forgets all names between them: a kernel each would load the libraries each time."""
    monkeypatch.setenv("AELM_DATA", str(people))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))  # where the notebooks write
    whole = nbformat.v4.new_notebook()
    for path in PATHS:
        code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for cell in code:
            cell.metadata["name"] = path.stem
        whole.cells += [*code, nbformat.v4.new_code_cell("%reset -f", metadata={"name": "reset"})]
    client = NotebookClient(whole, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    try:
        client.execute()
    except CellExecutionError as error:
        failed = next(c for c in whole.cells if any(one.output_type == "error" for one in c.outputs))
        pytest.fail(f"{failed.metadata['name']}: {error}")
    for path in PATHS:
        outputs = [output for cell in whole.cells if cell.metadata["name"] == path.stem for output in cell.outputs]
        printed = "".join(one.text for one in outputs if one.output_type == "stream" and one.name == "stdout")
        assert "False" not in printed, path  # what a notebook claims to be equal is
        assert "mAP" in printed or any("image/png" in one.get("data", {}) for one in outputs), path
    assert list(tmp_path.iterdir()) == []
