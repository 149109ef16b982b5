"""What a run has come to, on one screen."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from pixelgen.callbacks.scores import Evaluator
from pixelgen.callbacks.throughput import Throughput


class Summary(Callback):
    """Prints first and last scores, speed, and where to find pictures, checkpoints and logs when training ends."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._steps_before: int | None = None  # None: nothing was left to train

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self._started, self._steps_before = time.perf_counter(), trainer.global_step

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print, on rank 0."""
        if trainer.is_global_zero:
            Console().print(self.table(trainer))

    def table(self, trainer: Trainer) -> Table:
        """The summary as a table."""
        table = Table(title="Summary", show_header=True, header_style="bold")
        for column in ("", "first", "last"):
            table.add_column(column, overflow="fold")
        for name, first, last in scores(trainer):
            table.add_row(name, first, last)
        table.add_section()
        minutes = (time.perf_counter() - self._started) / 60
        before = trainer.global_step if self._steps_before is None else self._steps_before
        done = f"{trainer.global_step - before} in {minutes:.1f} min"
        if self._steps_before is None:
            done = "nothing left to train: raise trainer.max_steps"
        table.add_row("steps", str(before), f"{trainer.global_step} ({done})")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput) and callback.images_per_second is not None:
                table.add_row("images/s", "", f"{callback.images_per_second:.0f}")
        table.add_section()
        for name, path in places(trainer):
            table.add_row(name, "", os.path.relpath(path))
        return table


def scores(trainer: Trainer) -> list[tuple[str, str, str]]:
    """Name, first and last value (with its step) of everything that was scored."""
    rows = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, Evaluator):
            continue
        names = dict.fromkeys(name for entry in callback.history for name in entry if name != "step")
        for name in names:
            entries = [entry for entry in callback.history if name in entry]
            first, last = (f"{entry[name]:.4g} (step {entry['step']:.0f})" for entry in (entries[0], entries[-1]))
            rows.append((name, first, last))
    return rows


def places(trainer: Trainer) -> list[tuple[str, Path]]:
    """What there is to look at, and where."""
    run = Path(trainer.default_root_dir)
    found = [
        ("pictures", run / "previews"),
        ("checkpoints", run / "checkpoints"),
        ("scores", run / "evaluations.jsonl"),
    ]
    folders = dict.fromkeys(getattr(logger, "log_dir", None) for logger in trainer.loggers)
    logs = [("logs", Path(folder)) for folder in folders if folder]
    return [(name, path) for name, path in [*found, *logs] if path.exists()]
