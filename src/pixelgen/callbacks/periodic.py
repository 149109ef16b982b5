"""What is done every n steps: when, in which state of the model, and how its results are logged."""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from pixelgen.callbacks.ema import EMA
from pixelgen.checks import COUNT, checked
from pixelgen.data import ImageData
from pixelgen.distributed.processes import agree
from pixelgen.module import PixelGen
from pixelgen.samples.sampling import Average

T = TypeVar("T")


class Periodic(Callback):
    """Does something before training, every n optimizer steps and after training, never twice at one step.

    Subclasses implement `run`, and `check` for what can be refused before training starts. If `run` fails, on any
    process, training goes on with a warning; where processes wait for each other in it, let them `agree` before.

    Args:
        every_n_steps: optimizer steps between two times, or None for none in between.
        at_start: also before the first step of a fresh run.
        at_end: also after the last step.
    """

    @checked(every_n_steps=COUNT)
    def __init__(self, every_n_steps: int | None, at_start: bool = False, at_end: bool = True) -> None:
        self.every_n_steps = every_n_steps
        self.at_start = at_start
        self.at_end = at_end
        self._done_at: int | None = None

    def check(self, pl_module: PixelGen, data: ImageData | None) -> None:
        """Raise a ValueError, before training, that names what could not be done with this model and data."""

    def run(self, trainer: Trainer, pl_module: PixelGen) -> Any:
        """What is done; called on every process."""
        raise NotImplementedError

    def on_fit_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Check what will be needed."""
        self.check(pl_module, data_of(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Before the first step, if asked for; a resumed run did its present step before it stopped."""
        self._done_at = trainer.global_step or None
        self._run_if(trainer.global_step == 0 and self.at_start, trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: PixelGen, *args: Any) -> None:
        """Every n-th optimizer step; batches that only accumulate gradients do not count."""
        self._run_if(self.is_due(trainer.global_step), trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """After the last step, unless it was one of the n-th ones."""
        self._run_if(self.at_end, trainer, pl_module)

    def is_due(self, step: int) -> bool:
        """Whether an optimizer step is an n-th one."""
        return self.every_n_steps is not None and step > 0 and step % self.every_n_steps == 0

    def _run_if(self, due: bool, trainer: Trainer, pl_module: PixelGen) -> None:
        if due and trainer.global_step != self._done_at:
            self._done_at = trainer.global_step
            try:
                with agree():
                    self.run(trainer, pl_module)
            except Exception as error:  # a picture or a score is not worth a training run
                rank_zero_warn(
                    f"{type(self).__name__} failed at step {trainer.global_step}, and training goes on "
                    f"({type(error).__name__}: {error})"
                )


def callbacks_of(trainer: Trainer, kind: type[T]) -> list[T]:
    """The trainer's callbacks of a class."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def find_ema(trainer: Trainer) -> EMA | None:
    """The EMA callback of a trainer, if it has one."""
    return next(iter(callbacks_of(trainer, EMA)), None)


def data_of(trainer: Trainer) -> ImageData | None:
    """The trainer's data module, if it has one."""
    data: ImageData | None = trainer.datamodule  # type: ignore[attr-defined]
    return data


def log(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Give values to every logger at the current step, and to `trainer.callback_metrics` for callbacks to watch.

    `self.log` refuses in several hooks (`on_train_end` among them), and elsewhere logs only every
    `log_every_n_steps`.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)
        logger.save()
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})


def now(trainer: Trainer) -> float:
    """Seconds on a clock, once the device has done all that it was given."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def pause(trainer: Trainer) -> Iterator[None]:
    """Time spent in here is not training: callbacks with a method `exclude(seconds)` are told to leave it out."""
    started = now(trainer)
    try:
        yield
    finally:
        seconds = now(trainer) - started
        for callback in callbacks_of(trainer, Callback):
            if hasattr(callback, "exclude"):
                callback.exclude(seconds)


@contextmanager
def sampling_mode(trainer: Trainer, pl_module: PixelGen, ema: Average = True, eager: bool = False) -> Iterator[None]:
    """Evaluation mode, no gradients and EMA weights, all put back on leaving.

    The global random generators of torch, numpy and Python, and the mode of every submodule, are as before
    afterwards, so that sampling never changes the result of a training run. Without an EMA callback the weights are
    the raw ones. With `eager`, compiled blocks run uncompiled: compiling them again for sampling takes 15 to 30 s for
    each batch size and gains 15 % on a CPU.
    """
    callback, device = find_ema(trainer), pl_module.device
    weights = nullcontext() if callback is None else callback.average(pl_module, ema)
    devices = [device] if device.type == "cuda" else []  # forking every GPU would open a context on each
    modes = {submodule: submodule.training for submodule in pl_module.modules()}
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with pause(trainer), torch.random.fork_rng(devices), torch.no_grad(), weights:
            pl_module.eval()
            with torch.compiler.set_stance("force_eager" if eager else "default"):
                yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        for submodule, training in modes.items():
            submodule.training = training
