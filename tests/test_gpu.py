"""The same command on a CUDA device; `make test-gpu`."""

from pathlib import Path

import pytest
import torch

import pixelgen
from pixelgen.fit import main

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEMO = str(Path(__file__).parent.parent / "configs" / "demo.yaml")


def test_demo_trains_resumes_and_samples_on_the_gpu(tmp_path):
    quick = ["--callbacks.fid.num_samples", "80", "--callbacks.fid.reference_samples", "80"]
    quick += ["--callbacks.throughput.every_n_steps", "5", "--trainer.accelerator", "gpu", "--trainer.devices", "1"]
    cli = main(["--config", DEMO, "--run", str(tmp_path / "run"), "--trainer.max_steps", "10", *quick])
    assert cli.model.objective.lpips.encoder.network.conv_stem.weight.is_cuda
    assert cli.trainer.callback_metrics["throughput/peak_memory_gib"] > 0
    assert main(["--ckpt_path", str(tmp_path / "run"), "--trainer.max_steps", "12"]).trainer.global_step == 12
    images = [pixelgen.load(tmp_path / "run", device=device).sample([0, 1], seeds=3) for device in ("cuda", "cpu")]
    assert torch.allclose(images[0].cpu(), images[1], atol=1e-2)
