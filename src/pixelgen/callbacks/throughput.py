"""How fast training runs, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from pixelgen.callbacks.log import log
from pixelgen.encoders.frozen import FrozenEncoder

# dense bf16 and fp16 peaks by the makers' data sheets, where Lightning's table holds the sparse one or nothing
_DENSE_HALF_PEAK = {"H100 PCIe": 756e12, "H100": 989e12, "H800": 989e12, "H200": 989e12}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s that a device reaches at best in a precision; None if unknown."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in _DENSE_HALF_PEAK.items() if part in name), None)
        if known is not None:
            return known
    return get_available_flops(device, dtype)


@contextmanager
def pause(trainer: Trainer) -> Iterator[None]:
    """Time spent in here is not training: `Throughput` leaves it out."""
    started = _now(trainer.strategy.root_device)
    try:
        yield
    finally:
        seconds = _now(trainer.strategy.root_device) - started
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput):
                callback.exclude(seconds)


class Throughput(Callback):
    """Logs images per second, step time, waiting for data, time in frozen networks, MFU and peak memory.

    Every number is an average since the last logging, without validation, previews, evaluations and checkpoints.
    The device is synchronised in logging steps only. `throughput/data_share` is the share of the host's time
    between two steps: loading, copying to the device and Lightning's own logging.
    `throughput/perceptual_share` is the forward time of frozen networks in the logging step over that step's time;
    their backward pass is not in it. FLOPs are counted once, in the first training step of a run, which therefore runs
    uncompiled, with the share of samples that happens to pass the gate there; not where the peak is unknown, and not
    for sharded networks.

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
        self._profile: _FrozenProfile | None = None
        self._step = 0

    def exclude(self, seconds: float) -> None:
        """Leave a pause out of the present window."""
        self._excluded += seconds
        self._excluded_gap += seconds

    def _open_window(self, trainer: Trainer) -> None:
        self._opened = self._batch_ended = _now(trainer.strategy.root_device)
        self._excluded = self._excluded_gap = self._waited = 0.0
        self._images = 0
        self._steps_before = trainer.global_step

    # --- hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the first window early: other callbacks pause already before the first step."""
        self._open_window(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the first window."""
        self._step = trainer.global_step
        self._open_window(trainer)
        if self.peak_flops is None:
            self.peak_flops = peak_flops(pl_module.device, _compute_dtype(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note how long the batch took to arrive."""
        self._waited += max(0.0, time.perf_counter() - self._batch_ended - self._excluded_gap)
        if self.count_flops and self.peak_flops and self.flops_per_image is None and not _sharded(pl_module):
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()
        elif (trainer.global_step + 1) % self.every_n_steps == 0:
            self._profile = _FrozenProfile(pl_module)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting FLOPs: one forward and one backward pass are over."""
        if self._counter is not None:
            self._counter.__exit__(None, None, None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and log if it is time."""
        images = _batch_size(batch)
        self._images += images
        if self._counter is not None:
            self.flops_per_image = self._counter.get_total_flops() / max(1, images)
            self._counter = None
        share = None
        if self._profile is not None:
            share = self._profile.close()
            self._profile = None
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            if self._step % self.every_n_steps == 0:
                self._log(trainer, pl_module, share)
                self._open_window(trainer)
        self._excluded_gap = 0.0
        self._batch_ended = time.perf_counter()

    def _log(self, trainer: Trainer, pl_module: LightningModule, perceptual_share: float | None) -> None:
        seconds = _now(trainer.strategy.root_device) - self._opened - self._excluded
        steps = max(1, trainer.global_step - self._steps_before)
        per_device = self._images / seconds
        self.images_per_second = per_device * trainer.world_size
        values = {
            "throughput/images_per_s": self.images_per_second,
            "throughput/step_ms": 1000 * seconds / steps,
            "throughput/data_share": min(1.0, self._waited / seconds),
        }
        if perceptual_share is not None:
            values["throughput/perceptual_share"] = perceptual_share
        if self.flops_per_image and self.peak_flops:
            values["throughput/flops_per_step"] = self.flops_per_image * self._images * trainer.world_size / steps
            values["throughput/mfu"] = self.flops_per_image * per_device / self.peak_flops
        if pl_module.device.type == "cuda":
            values["throughput/peak_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        log(trainer, values)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is not training time."""
        self._validation_started = _now(trainer.strategy.root_device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out."""
        if trainer.state.fn == "fit":
            self.exclude(_now(trainer.strategy.root_device) - self._validation_started)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no counters or hooks behind."""
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None
        if self._profile is not None:
            self._profile.close()
            self._profile = None

    def state_dict(self) -> dict[str, Any]:
        """The counted FLOPs, so that a resumed run does not count again."""
        return {"flops_per_image": self.flops_per_image}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the counted FLOPs."""
        self.flops_per_image = state_dict["flops_per_image"]


class _FrozenProfile:
    """Times the forward passes of frozen networks during one step, synchronising around each."""

    def __init__(self, pl_module: LightningModule) -> None:
        self.device = pl_module.device
        self.seconds = 0.0
        self.handles: list[RemovableHandle] = []
        frozen = [module for module in pl_module.modules() if isinstance(module, FrozenEncoder)]
        self.any = bool(frozen)
        for module in frozen:
            self.handles.append(module.register_forward_pre_hook(self._enter))
            self.handles.append(module.register_forward_hook(self._leave))
        self.started = _now(self.device)

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.entered = _now(self.device)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seconds += _now(self.device) - self.entered

    def close(self) -> float | None:
        """Remove the hooks and return the share of time, or None if there are no frozen networks."""
        for handle in self.handles:
            handle.remove()
        total = _now(self.device) - self.started
        return self.seconds / total if self.any else None


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _sharded(pl_module: LightningModule) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in pl_module.parameters())


def _batch_size(batch: Any) -> int:
    image = batch["image"] if isinstance(batch, Mapping) else batch[0]
    assert isinstance(image, Tensor)
    return len(image)


def _compute_dtype(trainer: Trainer) -> torch.dtype:
    precision = str(trainer.precision)
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32
