"""What a run has come to, on one screen."""

import os
import time
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.table import Table

from pixelgen.callbacks.periodic import callbacks_of
from pixelgen.callbacks.throughput import Throughput
from pixelgen.module import PixelGen


class Summary(Callback):
    """Prints first and last scores, speed, and where to find pictures, checkpoints and logs when training ends."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._steps_before: int | None = None  # None: nothing was left to train

    def on_train_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Note the time."""
        self._started, self._steps_before = time.perf_counter(), trainer.global_step

    def on_fit_end(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Print, on rank 0."""
        if trainer.is_global_zero:
            Console().print(self.table(trainer))

    def table(self, trainer: Trainer) -> Table:
        """The summary as a table."""
        table = Table(title="Summary", show_header=True, header_style="bold")
        for column in ("", "first", "last"):
            table.add_column(column, overflow="fold")
        for row in scores(trainer):
            table.add_row(*row)
        table.add_section()
        before, done = trainer.global_step, "nothing left to train: raise trainer.max_steps"
        if self._steps_before is not None:
            before, minutes = self._steps_before, (time.perf_counter() - self._started) / 60
            done = f"{trainer.global_step - before} in {minutes:.1f} min"
        table.add_row("steps", str(before), f"{trainer.global_step} ({done})")
        for callback in callbacks_of(trainer, Throughput):
            if callback.images_per_second is not None:
                table.add_row("images/s", "", f"{callback.images_per_second:.0f}")
        table.add_section()
        for name, path in outputs(trainer):
            table.add_row(name, "", os.path.relpath(path))
        return table


def scores(trainer: Trainer) -> list[tuple[str, str, str]]:
    """Name, first and last value (with its step) of all that callbacks with a `history` of values by step have."""
    rows = []
    for callback in callbacks_of(trainer, Callback):
        history: list[dict[str, float]] = getattr(callback, "history", [])
        for name in dict.fromkeys(name for entry in history for name in entry if name != "step"):
            entries = [entry for entry in history if name in entry]
            first, last = (f"{entry[name]:.4g} (step {entry['step']:.0f})" for entry in (entries[0], entries[-1]))
            rows.append((name, first, last))
    return rows


def outputs(trainer: Trainer) -> list[tuple[str, Path]]:
    """What there is to look at, and where."""
    run = Path(trainer.default_root_dir)
    files = {"pictures": "previews", "checkpoints": "checkpoints", "scores": "evaluations.jsonl"}
    folders = dict.fromkeys(getattr(logger, "log_dir", None) for logger in trainer.loggers)
    logs = [("logs", Path(folder)) for folder in folders if folder]
    return [(name, path) for name, path in [*((n, run / file) for n, file in files.items()), *logs] if path.exists()]
