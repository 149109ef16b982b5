"""How fast training runs, where its time goes, and at which learning rate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from pixelgen.callbacks.periodic import log, now
from pixelgen.encoders.frozen import FrozenEncoder
from pixelgen.module import PixelGen, is_logging_step

# dense bf16 and fp16 peaks by the makers' data sheets, where Lightning's table holds the sparse one or nothing
_DENSE_HALF_PEAK = {"H100 PCIe": 756e12, "H100": 989e12, "H800": 989e12, "H200": 989e12}
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s that a device reaches at best in a precision; None if unknown."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in _DENSE_HALF_PEAK.items() if part in name), None)
        if known is not None:
            return known
    return get_available_flops(device, dtype)


class Throughput(Callback):
    """Logs images per second, step time, waiting for data, time in frozen networks, MFU and peak memory.

    Every number is an average since the last logging, without validation, previews, evaluations and checkpoints.
    The device is synchronised in logging steps only. `throughput/data_share` is the share of the host's time
    between two steps: loading, copying to the device and Lightning's own logging.
    `throughput/perceptual_share` is the forward time of frozen networks in the logging step over that step's time;
    their backward pass is not in it. FLOPs are counted once, in the first training step of a run, which therefore runs
    uncompiled, with the share of samples that happens to pass the gate there; not where the peak is unknown, and not
    for sharded networks. The learning rate is logged as `lr`, or `lr-<name or number>` where parameters are in groups,
    in the trainer's logging steps.

    Args:
        every_n_steps: optimizer steps between two loggings.
        count_flops: count the FLOPs of the first step (forward and backward, frozen networks included) for the MFU.
        peak_flops: FLOP/s that one device reaches at best, on dense matrices; looked up for known devices if null.
    """

    def __init__(self, every_n_steps: int = 50, count_flops: bool = True, peak_flops: float | None = None) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.count_flops = count_flops
        self.peak_flops = peak_flops
        self.images_per_second: float | None = None
        self.flops_per_image: float | None = None
        self._counter: FlopCounterMode | None = None
        self._frozen: list[float] | None = None  # seconds in frozen networks, and of the whole step
        self._measuring = ExitStack()  # the two above
        self._step = 0

    def exclude(self, seconds: float) -> None:
        """Leave a pause out of the present window."""
        self._excluded += seconds
        self._excluded_gap += seconds

    def _open_window(self, trainer: Trainer) -> None:
        self._opened = self._batch_ended = now(trainer)
        self._excluded = self._excluded_gap = self._waited = 0.0
        self._images = 0
        self._step = self._steps_before = trainer.global_step

    # --- hooks

    def on_fit_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Open the first window early: other callbacks pause already before the first step."""
        self._open_window(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Open the first window."""
        self._open_window(trainer)
        if self.peak_flops is None:
            self.peak_flops = peak_flops(pl_module.device, _DTYPES.get(str(trainer.precision), torch.float32))

    def on_train_batch_start(self, trainer: Trainer, pl_module: PixelGen, batch: Any, batch_idx: int) -> None:
        """Note how long the batch took to arrive."""
        self._waited += max(0.0, time.perf_counter() - self._batch_ended - self._excluded_gap)
        if self.count_flops and self.peak_flops and self.flops_per_image is None and not _sharded(pl_module):
            self._counter = self._measuring.enter_context(FlopCounterMode(display=False))
        elif (trainer.global_step + 1) % self.every_n_steps == 0:
            self._frozen = self._measuring.enter_context(_time_frozen(trainer, pl_module))

    def on_after_backward(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Stop counting FLOPs: one forward and one backward pass are over."""
        if self._counter is not None:
            self._measuring.close()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: PixelGen, optimizer: Optimizer) -> None:
        """Log the learning rate."""
        if is_logging_step(trainer, trainer.global_step + 1):
            groups = optimizer.param_groups
            names = (
                [f"lr-{group.get('name', number)}" for number, group in enumerate(groups)]
                if len(groups) > 1
                else ["lr"]
            )
            pl_module.log_dict({name: float(group["lr"]) for name, group in zip(names, groups, strict=True)})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: PixelGen, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Count the batch, and log if it is time."""
        images = len(batch["image"])
        self._images += images
        self._measuring.close()
        if self._counter is not None:
            self.flops_per_image = self._counter.get_total_flops() / max(1, images)
            self._counter = None
        frozen, self._frozen = self._frozen, None
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            if self._step % self.every_n_steps == 0:
                self._log(trainer, pl_module, frozen)
                self._open_window(trainer)
        self._excluded_gap = 0.0
        self._batch_ended = time.perf_counter()

    def _log(self, trainer: Trainer, pl_module: PixelGen, frozen: list[float] | None) -> None:
        seconds = now(trainer) - self._opened - self._excluded
        steps = max(1, trainer.global_step - self._steps_before)
        per_device = self._images / seconds
        self.images_per_second = per_device * trainer.world_size
        values = {
            "throughput/images_per_s": self.images_per_second,
            "throughput/step_ms": 1000 * seconds / steps,
            "throughput/data_share": min(1.0, self._waited / seconds),
        }
        if frozen:
            values["throughput/perceptual_share"] = frozen[0] / frozen[1]
        if self.flops_per_image and self.peak_flops:
            values["throughput/flops_per_step"] = self.flops_per_image * self._images * trainer.world_size / steps
            values["throughput/mfu"] = self.flops_per_image * per_device / self.peak_flops
        if pl_module.device.type == "cuda":
            values["throughput/peak_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        log(trainer, values)

    def on_validation_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Validation is not training time."""
        self._validation_started = now(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Leave the validation out."""
        if trainer.state.fn == "fit":
            self.exclude(now(trainer) - self._validation_started)

    def on_exception(self, trainer: Trainer, pl_module: PixelGen, exception: BaseException) -> None:
        """Leave no counters or hooks behind."""
        self._measuring.close()
        self._counter = self._frozen = None

    def state_dict(self) -> dict[str, Any]:
        """The counted FLOPs, so that a resumed run does not count again."""
        return {"flops_per_image": self.flops_per_image}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the counted FLOPs."""
        self.flops_per_image = state_dict["flops_per_image"]


@contextmanager
def _time_frozen(trainer: Trainer, pl_module: PixelGen) -> Iterator[list[float]]:
    """Times the forward passes of frozen networks, synchronising around each.

    Yields:
        A list; on leaving, it holds the seconds in them, and of the whole time, if there are any.
    """
    frozen = [module for module in pl_module.modules() if isinstance(module, FrozenEncoder)]
    started, spent, seconds = now(trainer), [0.0], list[float]()

    def enter(module: nn.Module, inputs: Any) -> None:
        spent[0] -= now(trainer)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        spent[0] += now(trainer)

    handles = [module.register_forward_pre_hook(enter) for module in frozen]
    handles += [module.register_forward_hook(leave) for module in frozen]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
        if frozen:
            seconds += [spent[0], now(trainer) - started]


def _sharded(pl_module: PixelGen) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in pl_module.parameters())
