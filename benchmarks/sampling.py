"""What an image costs with the four published samplers: network calls, which must equal the ideal, and images/s.

python benchmarks/sampling.py                        # narrow networks, 64 px, for a CPU
python benchmarks/sampling.py --published --compile  # L/16, XL/16 and XXL/16 at their sizes, for a GPU

Weights are random: they change neither calls nor speed. Calls are counted per image, rows of the network's batches over
images, so that a guided step, whose two branches share a batch, counts twice. "written" is the whole way to PNG files.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import Fabric
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pixelgen import PixelGen
from pixelgen.callbacks.throughput import peak_flops
from pixelgen.distributed.processes import launch
from pixelgen.flow import AdamsBashforth, Euler, Heun, Sampler
from pixelgen.models import Denoiser, JiT, TextJiT
from pixelgen.models.sizes import jit, text_jit
from pixelgen.samples.generate import Request, generate


@dataclass(frozen=True)
class Setting:
    """A published result: its sampler, the calls that the release makes and those that are needed."""

    name: str
    sampler: Sampler
    released: int
    ideal: int
    network: str


HALF = {"guidance_min": 0.1, "guidance_max": 0.9}
SETTINGS = (
    Setting("L/16, FID 7.53", Euler(num_steps=50), 100, 50, "L"),
    Setting("XL/16, FID 5.11", Heun(num_steps=50, shift=2.0), 198, 99, "XL"),
    Setting("XL/16, FID 1.83", Heun(num_steps=50, shift=2.0, guidance=2.25, **HALF), 198, 99 + 76, "XL"),
    Setting("XXL/16, GenEval 0.79", AdamsBashforth(num_steps=25, shift=3.0, guidance=4.0), 50, 25 + 24, "XXL"),
)


def network(name: str, published: bool) -> Denoiser:
    """The network of a setting, or a narrow one of its kind."""
    if published:
        return text_jit() if name == "XXL" else jit(f"{name}/16")
    if name == "XXL":
        return TextJiT(64, hidden_size=64, depth=2, num_heads=2, text_depth=1, text_dim=32,
                       text_length=16, bottleneck_dim=32)  # fmt: skip
    return JiT(64, hidden_size=64, depth=2, num_heads=2, bottleneck_dim=32, in_context_len=8, in_context_start=1)


def condition(denoiser: Denoiser, batch: int) -> Tensor:
    """Any condition."""
    if isinstance(denoiser, TextJiT):
        return torch.randn(batch, *denoiser.text_shape)
    return torch.arange(batch) % denoiser.num_classes


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that it takes."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start


def measure(setting: Setting, fabric: Fabric, args: argparse.Namespace) -> list[str]:
    """A row of the table."""
    torch.manual_seed(0)
    denoiser = network(setting.network, args.published)
    if args.compile:
        denoiser.compile_blocks(dynamic=False)
    model = PixelGen(denoiser, sampler=setting.sampler).to(fabric.device).eval()
    side, batch = denoiser.image_size, args.batch
    noise = torch.randn(batch, 3, side, side, device=fabric.device)
    wanted = condition(denoiser, batch).to(fabric.device)
    unwanted = torch.zeros_like(wanted) if wanted.ndim > 1 else torch.full_like(wanted, denoiser.num_classes)
    rows = 0

    def predict(x: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        nonlocal rows
        rows += len(x)
        return denoiser(x, t, c)

    def sample() -> None:
        with fabric.autocast():
            setting.sampler(predict, noise, wanted, unwanted)

    with (
        torch.no_grad(),
        fabric.autocast(),
        FlopCounterMode(display=False) as counter,
        torch.compiler.set_stance("force_eager"),
    ):
        denoiser(noise[:1], torch.zeros(1, device=fabric.device), wanted[:1])
    sample()  # compiles, and counts
    calls = rows / batch
    seconds = min(timed(sample, fabric.device) for _ in range(args.repeats))
    peak = peak_flops(fabric.device, torch.bfloat16 if "bf16" in args.precision else torch.float32)
    share = calls * batch / seconds * counter.get_total_flops() / peak if peak else math.nan
    return [
        setting.name, str(setting.released), str(setting.ideal), f"{calls:g}", f"{batch / seconds:.2f}",
        written(model, fabric, args), f"{1000 * seconds / calls / batch:.2f}", f"{share:.0%}" if peak else "",
    ]  # fmt: skip


def written(model: PixelGen, fabric: Fabric, args: argparse.Namespace) -> str:
    """Images/s of `generate`, to PNG files; nothing for text, which would need an encoder."""
    if model.denoiser.num_classes is None:
        return ""
    requests = [Request(f"{i:06d}.png", i, i % 1000) for i in range(args.images)]
    with tempfile.TemporaryDirectory() as folder:
        generate(model, requests[:1], Path(folder) / "warm", {}, fabric)
        seconds = timed(lambda: generate(model, requests, Path(folder) / "set", {}, fabric), fabric.device)
    return f"{args.images / seconds:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true", help="the published sizes of network and image")
    parser.add_argument("--batch", type=int, default=32, help="images at a time")
    parser.add_argument("--images", type=int, default=64, help="images that are written to files")
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed", "16-mixed"], default="bf16-mixed")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--only", default="", help="part of the name of a setting")
    args = parser.parse_args()
    fabric = launch(precision=args.precision)
    device = torch.cuda.get_device_name() if fabric.device.type == "cuda" else "CPU"
    title = f"sampling on {device}, {args.precision}, {'compiled' if args.compile else 'eager'}, {args.batch} at a time"
    table = Table("", "calls released", "ideal", "ours", "images/s", "written", "ms/call", "of peak", title=title)
    for setting in SETTINGS:
        if args.only in setting.name:
            row = measure(setting, fabric, args)
            assert float(row[3]) == setting.ideal, row
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
