"""Notebooks are generated from their scripts, and run."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run as `make demo` leaves it, of a tiny network."""
    from pixelgen.fit import main

    folder = tmp_path_factory.mktemp("runs") / "demo"
    denoiser = "--model.denoiser"
    main(
        [
            *("--data", "ShapesData", "--data.batch_size", "2", denoiser, "JiT", f"{denoiser}.patch_size", "16"),
            *(f"{denoiser}.hidden_size", "16", f"{denoiser}.depth", "2", f"{denoiser}.num_heads", "2"),
            *("--model.sampler", "Euler", "--model.sampler.num_steps", "2", "--trainer.max_steps", "1"),
            *("--trainer.limit_val_batches", "0", "--callbacks.preview", "null", "--run", str(folder)),
            *("--trainer.accelerator", "cpu"),
        ]
    )
    return folder


@pytest.mark.parametrize("script", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_notebook_is_what_its_script_generates(script):
    kept = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    generated = jupytext.read(script)
    assert [(c.cell_type, c.source) for c in kept.cells] == [(c.cell_type, c.source) for c in generated.cells]


def test_first_look_runs(run, monkeypatch):
    """The script itself, in a process of its own, as a notebook kernel would run it."""
    environment = {**os.environ, "PIXELGEN_RUN": str(run), "PIXELGEN_IMAGES": "4", "MPLBACKEND": "Agg"}
    script = NOTEBOOKS / "01_first_look.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_first_look_runs_in_a_kernel(run, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PIXELGEN_RUN", str(run))
    monkeypatch.setenv("PIXELGEN_IMAGES", "4")
    notebook = nbformat.read(NOTEBOOKS / "01_first_look.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert any("image/png" in output.data for output in pictures)
