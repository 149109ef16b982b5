"""Being asked to stop: SIGTERM, and the signals with which clusters announce the end of a job."""

import signal
import threading
from types import FrameType

from lightning.pytorch import Trainer

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Stopped(SystemExit):
    """Training was asked to stop, and has saved; not caught, the process ends with status 0."""


class StopRequest:
    """Notes the first signal that asks to stop, for the training loop to look at between two steps.

    It takes the place of Lightning's own handlers, which leave without saving on SIGTERM, under SLURM save a
    checkpoint that later wins over newer ones, and with several processes exchange a flag, and wait for the device, in
    every single step.
    """

    def __init__(self) -> None:
        self.name: str | None = None

    def listen(self, trainer: Trainer) -> None:
        """From now on, note signals. The trainer restores the former handlers when it is done."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may; training in another one goes on without
        for number in SIGNALS:
            signal.signal(number, self._note)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name

    def agreed(self, trainer: Trainer, together: bool) -> bool:
        """Whether any process was asked to stop; several exchange this only in steps in which all ask `together`."""
        asked = self.name is not None
        if trainer.world_size == 1:
            return asked
        return together and trainer.strategy.reduce_boolean_decision(asked, all=False)
