"""Notebooks are generated from their scripts, and run."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("script", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_notebook_is_what_its_script_generates(script):
    kept = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    generated = jupytext.read(script)
    assert [(c.cell_type, c.source) for c in kept.cells] == [(c.cell_type, c.source) for c in generated.cells]


def test_first_look_runs(demo_run):
    """The script itself, in a process of its own, as a notebook kernel would run it."""
    environment = {**os.environ, "PIXELGEN_RUN": str(demo_run), "PIXELGEN_IMAGES": "4", "MPLBACKEND": "Agg"}
    script = NOTEBOOKS / "01_first_look.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_first_look_runs_in_a_kernel(demo_run, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PIXELGEN_RUN", str(demo_run))
    monkeypatch.setenv("PIXELGEN_IMAGES", "4")
    notebook = nbformat.read(NOTEBOOKS / "01_first_look.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert any("image/png" in output.data for output in pictures)
