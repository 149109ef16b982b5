"""How much of a training step the callbacks cost, as ratios of one run.

OMP_NUM_THREADS=1 python benchmarks/callback_overhead.py [--device cuda] [--rounds 5] [--steps 20]

The step is one without perceptual losses, which only make it longer. Each round trains the same network once per arm,
in rotating order. On a GPU the times are the host's; on a CPU they are this process' processor time, which other
processes disturb less: with one thread, that is the time a step would take undisturbed.

* "difference" is what a step takes beyond that of the round's bare arm: median and range over the rounds. On a shared
  CPU the same fit repeats to about 2 % only, so a range around zero only bounds the cost from above.
* "hooks" is the time inside a callback while all of them run, over the step of the same fit. It repeats to a tenth, but
  misses what a callback causes elsewhere: in the optimizer, in caches, in the thread that draws the progress bar (which
  needs a terminal). On a GPU it also misses the work of the device, and holds the wait for it in logging steps.
"""

import argparse
import gc
import logging
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from pixelgen import PixelGen
from pixelgen.callbacks import EMA, Checkpoint, Progress, SkipNonFinite, Throughput
from pixelgen.models import Denoiser, JiT, jit

LOG_EVERY, WARMUP, CLASSES = 20, 3, 1000
BATCH = {"cuda": 32, "cpu": 8}
BUDGETED = ("ema", "guard", "throughput", "logging")  # together they may cost BUDGET of a step
BUDGET = 0.03
EVERYTHING = (*BUDGETED, "progress", "checkpoint")
ARMS = {"none": (), **{name: (name,) for name in BUDGETED}, "budgeted": BUDGETED, "all": EVERYTHING}
HOOKS = ("on_train_batch_start", "on_after_backward", "on_before_optimizer_step", "on_train_batch_end")


class Unsaved(Checkpoint):
    """Checkpoints whose hooks run but never write."""

    def save(self, trainer: Trainer) -> None:
        """Nothing."""


CALLBACKS: dict[str, Callable[[], Callback]] = {
    "ema": EMA,
    "guard": SkipNonFinite,
    "throughput": partial(Throughput, every_n_steps=LOG_EVERY),  # 50 by default: no logging in a short fit
    "progress": Progress,
    "checkpoint": Unsaved,
}


class Images(Dataset):
    """Random images with labels; an epoch is longer than any fit."""

    def __init__(self, size: int) -> None:
        self.images = torch.randint(0, 256, (64, 3, size, size), dtype=torch.uint8)

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index % len(self.images)], "label": index % CLASSES}


class Clock:
    """Time inside methods, by name; a method called inside another counts for the outer one."""

    def __init__(self, device: str) -> None:
        self.seconds: Counter[str] = Counter()
        self.now = time.perf_counter if device == "cuda" else time.process_time
        self._running = False

    def watch(self, name: str, owner: Any, methods: Iterable[str]) -> None:
        """From now on, time these methods of an object."""
        for method in methods:
            setattr(owner, method, partial(self._timed, name, getattr(owner, method)))

    def _timed(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._running:
            return method(*args, **kwargs)
        self._running, start = True, self.now()
        try:
            return method(*args, **kwargs)
        finally:
            self.seconds[name] += self.now() - start
            self._running = False


class Window(Callback):
    """Seconds per step, in all and inside hooks, from the end of the warm-up to that of `steps` more steps."""

    def __init__(self, clock: Clock, steps: int) -> None:
        self.clock = clock
        self.steps = steps
        self.step = 0.0
        self.hooks: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Open or close the window."""
        if trainer.global_step == WARMUP:
            self.clock.seconds.clear()
            self.opened = self._now()
        elif trainer.global_step == WARMUP + self.steps:
            self.step = (self._now() - self.opened) / self.steps
            self.hooks = {name: seconds / self.steps for name, seconds in self.clock.seconds.items()}

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.clock.now()


def build(device: str) -> Denoiser:
    """L/16 at 256 px; on a CPU as many tokens per image, in a network that takes about half a second a step."""
    if device == "cuda":
        denoiser = jit("L/16", input_size=256, num_classes=CLASSES)
    else:
        denoiser = JiT(
            input_size=64, patch_size=4, hidden_size=256, depth=6, num_heads=4, num_classes=CLASSES, in_context_len=0
        )
    denoiser.compile_blocks()
    return denoiser


def fit(denoiser: Denoiser, names: Iterable[str], device: str, steps: int) -> Window:
    """Train for a few steps with some of the callbacks."""
    gc.collect()
    model, clock = PixelGen(denoiser), Clock(device)
    callbacks = {name: CALLBACKS[name]() for name in names if name in CALLBACKS}
    for name, callback in callbacks.items():
        clock.watch(name, callback, HOOKS)
    window = Window(clock, steps)
    with tempfile.TemporaryDirectory() as folder:
        logger = CSVLogger(folder) if "logging" in names else None
        if logger is not None:
            clock.watch("logging", model, ["_log"])
            clock.watch("logging", logger, ["log_metrics", "save"])
        trainer = Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed",
            max_steps=WARMUP + steps,
            max_epochs=-1,
            logger=logger or False,
            log_every_n_steps=LOG_EVERY if logger else 0,
            callbacks=[*callbacks.values(), window],
            enable_progress_bar="progress" in names,
            enable_checkpointing="checkpoint" in names,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(model, DataLoader(Images(denoiser.image_size), BATCH[device]))
    return window


def measure(device: str, rounds: int, steps: int) -> list[dict[str, Window]]:
    """The fits of every round, by arm."""
    denoiser, arms, measured = build(device), list(ARMS), []
    fit(denoiser, EVERYTHING, device, LOG_EVERY)  # compiles
    for i in range(rounds):
        shift = i % len(arms)
        measured.append({arm: fit(denoiser, ARMS[arm], device, steps) for arm in arms[shift:] + arms[:shift]})
    return measured


def spread(values: list[float]) -> str:
    """Median and range of shares, in per cent."""
    middle, low, high = (100 * value for value in (statistics.median(values), min(values), max(values)))
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def report(measured: list[dict[str, Window]], title: str) -> Table:
    """A row for each callback, and the sum that has a budget."""
    table = Table("", "step, ms", "difference, %", "hooks, ms", "hooks, %", title=title)
    extra = {arm: [fits[arm].step / fits["none"].step - 1 for fits in measured] for arm in ARMS}
    hooks = {name: [fits["all"].hooks[name] for fits in measured] for name in EVERYTHING}
    share = {name: [fits["all"].hooks[name] / fits["all"].step for fits in measured] for name in EVERYTHING}

    def add(label: str, arm: str, names: Iterable[str]) -> None:
        step = f"{1000 * statistics.median(fits[arm].step for fits in measured):.1f}" if arm in ARMS else ""
        inside = 1000 * statistics.median(map(sum, zip(*(hooks[name] for name in names), strict=True)))
        shares = list(map(sum, zip(*(share[name] for name in names), strict=True)))
        table.add_row(label, step, spread(extra[arm]) if arm in ARMS else "", f"{inside:.2f}", spread(shares))

    table.add_row("none", f"{1000 * statistics.median(fits['none'].step for fits in measured):.1f}")
    for name in EVERYTHING:
        add(name, name, [name])
    table.add_section()
    add(f"first four, budget {100 * BUDGET:.0f} %", "budgeted", BUDGETED)
    add("all", "all", EVERYTHING)
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=LOG_EVERY, help=f"measured per fit; a multiple of {LOG_EVERY}")
    args = parser.parse_args()
    if args.rounds < 1 or args.steps < LOG_EVERY or args.steps % LOG_EVERY:
        parser.error(f"choose at least one round, and a multiple of {LOG_EVERY} steps, so that logging has its share")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    title = f"training step on {args.device}, {args.rounds} rounds of {args.steps} steps"
    Console().print(report(measure(args.device, args.rounds, args.steps), title))


if __name__ == "__main__":
    main()
