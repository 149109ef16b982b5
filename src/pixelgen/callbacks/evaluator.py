"""What callbacks that score generated images during training have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from pixelgen.callbacks.periodic import Periodic


class Evaluator(Periodic):
    """Scores before, during and after training, and keeps every score."""

    def __init__(self, every_n_steps: int | None, at_start: bool, at_end: bool) -> None:
        super().__init__(every_n_steps, at_start, at_end)
        self.history: list[dict[str, float]] = []

    def evaluate(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        """Generate, score and log; the same values on every rank."""
        raise NotImplementedError

    def run(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        """Evaluate."""
        return self.evaluate(trainer, pl_module)

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
