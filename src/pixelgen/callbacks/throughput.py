"""How fast training runs, where its time goes, and at which learning rate."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Trainer
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from pixelgen.callbacks.periodic import Periodic, log, now
from pixelgen.checks import POSITIVE, checked
from pixelgen.encoders.frozen import FrozenEncoder
from pixelgen.module import PixelGen, is_logging_step

# dense bf16 and fp16 peaks by the makers' data sheets, where Lightning's table holds the sparse one or nothing
_DENSE_HALF_PEAK = {"H100 PCIe": 756e12, "H100": 989e12, "H800": 989e12, "H200": 989e12}
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s that a device reaches at best in a precision; None if unknown."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        for part, peak in _DENSE_HALF_PEAK.items():
            if part in name:
                return peak
    return get_available_flops(device, dtype)


class Throughput(Periodic):
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

    @checked(peak_flops=POSITIVE)
    def __init__(self, every_n_steps: int = 50, count_flops: bool = True, peak_flops: float | None = None) -> None:
        super().__init__(every_n_steps, at_end=False)
        self.count_flops, self.peak_flops = count_flops, peak_flops
        self.images_per_second: float | None = None
        self.flops_per_image: float | None = None
        self._counter: FlopCounterMode | None = None
        self._frozen: list[float] | None = None  # seconds in frozen networks, and of the whole step
        self._measuring = ExitStack()  # the two above
        self._excluded = self._excluded_gap = 0.0  # seconds of pauses in this window, and since the last batch

    def exclude(self, seconds: float) -> None:
        """Leave a pause out of the present window."""
        self._excluded += seconds
        self._excluded_gap += seconds

    def _open_window(self, trainer: Trainer) -> None:
        self._opened = self._batch_ended = now(trainer)
        self._excluded = self._excluded_gap = self._waited = 0.0
        self._images, self._steps_before = 0, trainer.global_step

    def on_train_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Open the first window."""
        super().on_train_start(trainer, pl_module)
        self._open_window(trainer)
        if self.peak_flops is None:
            self.peak_flops = peak_flops(pl_module.device, _DTYPES.get(str(trainer.precision), torch.float32))

    def on_train_batch_start(self, trainer: Trainer, pl_module: PixelGen, batch: Any, batch_idx: int) -> None:
        """Note how long the batch took to arrive."""
        self._waited += max(0.0, time.perf_counter() - self._batch_ended - self._excluded_gap)
        if self.count_flops and self.peak_flops and self.flops_per_image is None and not _sharded(pl_module):
            self._counter = self._measuring.enter_context(FlopCounterMode(display=False))
        elif self.is_due(trainer.global_step + 1):
            self._frozen = self._measuring.enter_context(_time_frozen(trainer, pl_module))

    def on_after_backward(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Stop counting FLOPs: one forward and one backward pass are over."""
        if self._counter is not None:
            self._measuring.close()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: PixelGen, optimizer: Optimizer) -> None:
        """Log the learning rate."""
        if is_logging_step(trainer, trainer.global_step + 1):
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            names = [f"lr-{group.get('name', number)}" for number, group in enumerate(optimizer.param_groups)]
            pl_module.log_dict({"lr": rates[0]} if len(rates) == 1 else dict(zip(names, rates, strict=True)))

    def on_train_batch_end(self, trainer: Trainer, pl_module: PixelGen, outputs: Any, batch: Any, *args: Any) -> None:
        """Count the batch, and log if it is time."""
        images = len(batch["image"])
        self._images += images
        self._measuring.close()
        if self._counter is not None:
            self.flops_per_image = self._counter.get_total_flops() / max(1, images)
            self._counter = None
        super().on_train_batch_end(trainer, pl_module)
        self._frozen, self._excluded_gap, self._batch_ended = None, 0.0, time.perf_counter()

    def run(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Log the averages of this window, and open the next one."""
        seconds = now(trainer) - self._opened - self._excluded
        steps = max(1, trainer.global_step - self._steps_before)
        per_device = self._images / seconds
        self.images_per_second = per_device * trainer.world_size
        values = {
            "throughput/images_per_s": self.images_per_second,
            "throughput/step_ms": 1000 * seconds / steps,
            "throughput/data_share": min(1.0, self._waited / seconds),
        }
        if self._frozen:
            values["throughput/perceptual_share"] = self._frozen[0] / self._frozen[1]
        if self.flops_per_image and self.peak_flops:
            values["throughput/flops_per_step"] = self.flops_per_image * self._images * trainer.world_size / steps
            values["throughput/mfu"] = self.flops_per_image * per_device / self.peak_flops
        if pl_module.device.type == "cuda":
            values["throughput/peak_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        log(trainer, values)
        self._open_window(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Validation is not training time."""
        self._validation_started = now(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Leave the validation out."""
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
    """Time forward passes of frozen networks; the list holds seconds in them, and in all, if there are any."""
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
