"""The notebook of docs/: stripped of outputs, its cells parse, and a short version of it runs."""

import ast
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
BASH = "%%bash\n"


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def sources() -> list[str]:
    return ["".join(cell["source"]) for cell in code_cells()]


def test_the_notebook_is_stored_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())


def test_python_cells_parse():
    for source in sources():
        if not source.startswith(BASH):
            ast.parse(source)


def test_bash_cells_pass_shellcheck():
    shellcheck = ROOT / ".venv/bin/shellcheck"
    if not shellcheck.is_file():
        pytest.skip("shellcheck is not installed: ./build.sh --dev")
    for source in sources():
        if source.startswith(BASH):
            script = "#!/usr/bin/env bash\n" + source.removeprefix(BASH)
            done = subprocess.run([shellcheck, "-"], input=script, capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_short_version_of_the_notebook_runs(tmp_path, monkeypatch):
    reason = "./build.sh --dev installs nbclient and ipykernel"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    import nbformat

    short = {"STEPS": "8", "SCALE": "0.05", "LIMIT": "4", "HF_HUB_OFFLINE": "1"}
    folders = {
        name: str(tmp_path / name.lower()) for name in ("RUNS", "DATA", "OWN", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR")
    }
    for name, value in (short | folders).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)

    nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    # Contact sheet, an example, held-out images before and after. So short a training brings no answer with a mask.
    assert len(images) >= 4
    for run in ("quickstart", "quickstart_own"):
        assert "custom|held_out" in (tmp_path / "runs" / run / "held_out.json").read_text(encoding="utf-8")
