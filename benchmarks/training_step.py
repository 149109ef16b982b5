"""What one training step of the demo costs: precision, compilation and the perceptual loss, as ratios of one run.

python benchmarks/training_step.py
"""

import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from pixelgen.encoders import Backbone
from pixelgen.flow import interpolate
from pixelgen.losses import FeatureDistance, Objective, Prediction
from pixelgen.models import JiT

BATCH, REPEATS, WARMUP = 64, 10, 3


def milliseconds(compile_blocks: bool, half: bool, perceptual: bool, device: str) -> float:
    """Median time of forward, loss and backward."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    denoiser = JiT(input_size=32, patch_size=8, hidden_size=256, depth=6, num_heads=4, num_classes=40, in_context_len=0)
    if compile_blocks:
        denoiser.compile_blocks()
    objective = Objective(lpips=FeatureDistance(Backbone(levels=(0, 1, 2))) if perceptual else None)
    denoiser, objective = denoiser.to(device), objective.to(device)
    x, labels = torch.rand(BATCH, 3, 32, 32, device=device) * 2 - 1, torch.arange(BATCH, device=device) % 40
    t = torch.linspace(0.01, 0.99, BATCH)
    x_t = interpolate(x, torch.randn_like(x), t.to(device))

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            x_hat = denoiser(x_t, t.to(device), labels)
            loss = objective.combine(objective(Prediction(x, x_t, t, x_hat)))
        loss.backward()
        denoiser.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARMUP):
        step()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    """Print the table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table("blocks", "precision", "perceptual loss", "ms", "relative", title=f"training step on {device}")
    first = None
    for half in (False, True):
        for compile_blocks in (False, True):
            for perceptual in (False, True):
                cost = milliseconds(compile_blocks, half, perceptual, device)
                first = first or cost
                names = ("compiled" if compile_blocks else "eager", "bf16" if half else "fp32")
                table.add_row(*names, "on" if perceptual else "off", f"{cost:.0f}", f"{cost / first:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
