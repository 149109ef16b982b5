"""Fixtures shared by tests of whole runs."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a process of tests already
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """`runs/demo` as `make demo` leaves it, of a tiny network."""
    from pixelgen.fit import main

    folder = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    denoiser = {"patch_size": 16, "hidden_size": 16, "depth": 2, "num_heads": 2, "in_context_len": 0}
    sizes = [argument for name, value in denoiser.items() for argument in (f"--model.denoiser.{name}", str(value))]
    main(
        [
            *("--data", "ShapesData", "--data.batch_size", "2", "--model.denoiser", "JiT", *sizes),
            *("--model.sampler", "Euler", "--model.sampler.num_steps", "2", "--trainer.max_steps", "1"),
            *("--trainer.limit_val_batches", "0", "--callbacks.preview", "null", "--run", str(folder)),
            *("--trainer.accelerator", "cpu"),
        ]
    )
    return folder
