"""What callbacks that score generated images during training have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from pixelgen.callbacks.periodic import Schedule
from pixelgen.data import ImageData


class Evaluator(Callback):
    """Scores before, during and after training, and keeps every score.

    Args:
        every_n_steps: optimizer steps between two evaluations, or None for none in between.
        at_start: also before the first step.
        at_end: also after the last step.
    """

    def __init__(self, every_n_steps: int | None, at_start: bool, at_end: bool) -> None:
        self.schedule = Schedule(every_n_steps, at_start, at_end)
        self.history: list[dict[str, float]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what evaluation will need."""
        self.check(pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def check(self, pl_module: LightningModule, data: ImageData | None) -> None:
        """Refuse, before training, what evaluation could not do with this model and data."""

    def evaluate(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Generate, score and log; the same values on every rank."""
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the untrained network, if asked for."""
        if self.schedule.start(trainer.global_step):
            self.evaluate(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Score every n-th step."""
        if self.schedule.step(trainer.global_step):
            self.evaluate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the result, unless the last step was one of the n-th ones."""
        if self.schedule.end(trainer.global_step):
            self.evaluate(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Every value so far."""
        return {"history": [dict(entry) for entry in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the values so far."""
        self.history = [dict(entry) for entry in state_dict["history"]]


def record(trainer: Trainer, values: dict[str, Any]) -> None:
    """Append scores and all that they depend on to `<run>/evaluations.jsonl`, on rank 0."""
    if trainer.is_global_zero:
        with (Path(trainer.default_root_dir) / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps({"step": trainer.global_step, **values}) + "\n")
