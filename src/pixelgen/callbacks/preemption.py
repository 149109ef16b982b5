"""Being asked to stop: Ctrl-C, a terminal that closes, and the signals with which clusters announce a job's end."""

import os
import signal
import stat
import threading
import time
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from pixelgen.data.images import SIGNALS

SAME = 0.3  # seconds in which a launcher hands on the Ctrl-C that the terminal has sent to every process already


class Stopped(SystemExit):
    """Training was asked to stop, and has saved; not caught, the process ends with status 0, or 130 after Ctrl-C."""


class StopRequest:
    """Notes the first signal that asks to stop, for the training loop to look at between two steps.

    It takes the place of Lightning's own handlers, which leave without saving on SIGTERM and Ctrl-C, under SLURM save a
    checkpoint that later wins over newer ones, and with several processes exchange a flag, and wait for the device, in
    every single step. What a process was told to ignore, as `nohup` does with SIGHUP, stays ignored. A second Ctrl-C
    ends training at once.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._noted = 0.0  # on the clock
        self._former: dict[Any, Any] = {}  # the handlers in whose place it is

    def listen(self, trainer: Trainer) -> None:
        """From now on, note signals."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may; training in another one goes on without
        for number in SIGNALS:
            former = self._former.setdefault(number, signal.getsignal(number))
            if former not in (signal.SIG_IGN, None):
                signal.signal(number, self._note)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def forget(self, trainer: Trainer) -> None:
        """Put the former handlers back, and let the trainer not restore what it has found in their place."""
        trainer._signal_connector._original_handlers.update(self._former)
        for number, former in self._former.items():
            if former is not None:
                signal.signal(number, former)
        self._former = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if name == "SIGINT" and self.name is not None and now - self._noted > SAME:
            raise KeyboardInterrupt
        if name == "SIGHUP":
            _leave_terminal()
        if self.name is None:
            self.name, self._noted = name, now
            if name == "SIGINT":
                rank_zero_info("training stops once its step is saved; press Ctrl-C again to stop without saving")

    def agreed(self, trainer: Trainer, together: bool) -> bool:
        """Whether any process was asked to stop; several exchange this only in steps in which all ask `together`."""
        asked = self.name is not None
        if trainer.world_size == 1:
            return asked
        return together and trainer.strategy.reduce_boolean_decision(asked, all=False)


def _leave_terminal() -> None:
    """Write into nothing what would go to a terminal: once it is closed, every line would be an error."""
    with open(os.devnull, "w") as nothing:
        for stream in (1, 2):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nothing.fileno(), stream)
