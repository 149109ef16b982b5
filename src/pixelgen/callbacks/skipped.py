"""What streamed data has left out, in the logs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from pixelgen.callbacks.log import log
from pixelgen.callbacks.periodic import Schedule


class Skipped(Callback):
    """Logs how many samples and shards the data has skipped since the start of training, `data/skipped/<reason>`.

    Of all processes together, and only the reasons that have occurred; nothing for data that skips nothing, such as
    image folders. Anything with a property `skipped`, counts by reason, as data module is asked.

    Args:
        every_n_steps: optimizer steps between two loggings.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.schedule = Schedule(every_n_steps, at_start=False, at_end=True)
        self.counts: dict[str, int] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every n-th step."""
        if self.schedule.step(trainer.global_step):
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the final counts."""
        if self.schedule.end(trainer.global_step):
            self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        own: dict[str, int] | None = getattr(trainer.datamodule, "skipped", None)  # type: ignore[attr-defined]
        if own is None:
            return
        counts = torch.tensor(list(own.values()), device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            counts = trainer.strategy.reduce(counts, reduce_op="sum")
        self.counts = {reason: n for reason, n in zip(own, counts.tolist(), strict=True) if n}
        if self.counts:
            log(trainer, {f"data/skipped/{reason.replace(' ', '_')}": n for reason, n in self.counts.items()})
