"""The notebooks run from top to bottom on a small finished run, and are stored without outputs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(notebook, folder, workdir):
    """Executes a copy in ``folder``, where its outputs stay."""
    copy = Path(shutil.copy(notebook, folder))
    environment = {**os.environ, "METAPERS_RUN": str(workdir), "PYTHONPATH": str(ROOT)}
    environment.pop("MPLBACKEND", None)  # the kernel has a backend of its own, which keeps the pictures
    environment |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "jupyter")}
    words = [
        sys.executable,
        "-m",
        "pytest",
        "--nbmake",
        "--overwrite",
        "-q",
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*words, copy.name], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done, json.loads(copy.read_text())


def text_of(cells):
    """All text that the cells printed or displayed."""
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    parts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in outputs]
    return "\n".join("".join(part) for part in parts)


@pytest.mark.slow
def test_adaptation_curves_run_on_a_finished_run(small_run, tmp_path):
    done, notebook = run(ROOT / "notebooks" / "01_adaptation_curves.ipynb", tmp_path, small_run)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    summary = json.loads((Path(small_run) / "summary.json").read_text())
    text = text_of(notebook["cells"])
    assert f"{summary['headline']['adapted']['mean']:.3f} after" in text
    better, worse = (summary["shares"]["start"][part]["mean"] for part in ("better", "worse"))
    assert f"by more than 0.05, {better:.1%} of users are better adapted and {worse:.1%} are worse" in text
    assert "on later examples, step by step: " in text and "personal parameters moved by" in text
    assert "moved by 0.000" not in text
    assert "Warning" not in text
    pictures = [
        output
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
