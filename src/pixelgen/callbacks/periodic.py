"""What is done every n steps, and pauses of training for sampling, after which nothing has changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.throughput import pause
from pixelgen.data import ImageData


def find_ema(trainer: Trainer) -> EMA | None:
    """The EMA callback of a trainer, if it has one."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, EMA)), None)  # type: ignore[attr-defined]


def takes_text(pl_module: LightningModule) -> bool:
    """Whether the module's network makes images from prompts."""
    return getattr(pl_module.denoiser, "text_shape", None) is not None


def data_prompts(data: ImageData | None, count: int) -> list[str]:
    """Captions of the training images in their order, `count` of them.

    Raises:
        ValueError: if there is no data module with captions.
    """
    if data is None or not getattr(data, "captions", False):
        raise ValueError("there is no data module whose captions could serve as prompts: give prompts to the callback")
    return data.prompts(count)


@contextmanager
def interlude(
    trainer: Trainer, pl_module: LightningModule, average: str | None = None, eager: bool = False
) -> Iterator[None]:
    """Evaluation mode, no gradients, averaged weights and the trainer's mixed precision, all put back on leaving.

    The global random generators of torch, numpy and Python, and the mode of every submodule, are as before
    afterwards, so that an interlude never changes the result of a training run.

    Args:
        trainer: the running trainer.
        pl_module: its module.
        average: which average to use (a name out of `EMA.names`); the first one if None, the raw weights if
            there is no EMA callback.
        eager: run compiled blocks uncompiled. Compiling them again for sampling takes 15 to 30 s for each batch
            size and gains 15 % on a CPU.
    """
    ema = find_ema(trainer)
    weights = nullcontext() if ema is None else ema.average(pl_module, average)
    compiled = torch.compiler.set_stance("force_eager" if eager else "default")
    quiet = _random_state(pl_module.device), _evaluation(pl_module), torch.no_grad()
    with ExitStack() as stack:
        for context in (pause(trainer), *quiet, weights, compiled):
            stack.enter_context(context)
        yield


@contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []  # forking every GPU would open a context on each
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


class Schedule:
    """When something is due: before training, every n optimizer steps, after training; never twice at a step.

    Args:
        every_n_steps: optimizer steps between two times, or None for never in between.
        at_start: before the first step of a fresh run.
        at_end: after the last step.
    """

    def __init__(self, every_n_steps: int | None, at_start: bool, at_end: bool) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}: use null for never")
        self.every_n_steps = every_n_steps
        self.at_start = at_start
        self.at_end = at_end
        self._last: int | None = None

    def start(self, step: int) -> bool:
        """Due at the start of training?"""
        self._last = step if step > 0 else None  # a resumed run did this step before it stopped
        return step == 0 and self.at_start and self._once(step)

    def step(self, step: int) -> bool:
        """Due after a batch that ended at optimizer step `step`? Batches that only accumulate are not counted."""
        due = step > 0 and self.every_n_steps is not None and step % self.every_n_steps == 0
        return due and self._once(step)

    def end(self, step: int) -> bool:
        """Due at the end of training?"""
        return self.at_end and self._once(step)

    def _once(self, step: int) -> bool:
        fresh, self._last = step != self._last, step
        return fresh


class Periodic(Callback):
    """Does something before training, every n optimizer steps and after training, never twice at one step.

    Subclasses implement `run`, and `check` for what can be refused before training starts.

    Args:
        every_n_steps: optimizer steps between two times, or None for none in between.
        at_start: also before the first step of a fresh run.
        at_end: also after the last step.
    """

    def __init__(self, every_n_steps: int | None, at_start: bool = False, at_end: bool = True) -> None:
        self.schedule = Schedule(every_n_steps, at_start, at_end)

    def check(self, pl_module: Any, data: Any) -> None:
        """Refuse, before training, what could not be done with this model and data.

        Raises:
            ValueError: naming it.
        """

    def run(self, trainer: Trainer, pl_module: Any) -> None:
        """What is done; called on every process."""
        raise NotImplementedError

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what will be needed."""
        self.check(pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first step, if asked for."""
        if self.schedule.start(trainer.global_step):
            self.run(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Every n-th step."""
        if self.schedule.step(trainer.global_step):
            self.run(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last step, unless it was one of the n-th ones."""
        if self.schedule.end(trainer.global_step):
            self.run(trainer, pl_module)
