"""The progress bar of a run that is counted in steps."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from pixelgen.module import is_logging_step


class Progress(RichProgressBar):
    """Rich progress bar without epoch limits and version numbers, which say nothing about a run that goes by steps."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar: the step, and what is logged with `prog_bar=True`.

        Reading logged values waits for the device, so they are read in logging steps only.
        """
        if is_logging_step(trainer, trainer.global_step):
            self._shown = super().get_metrics(trainer, pl_module)
            self._shown.pop("v_num", None)
        limit = "" if trainer.max_steps < 0 else f"/{trainer.max_steps}"
        return {"step": f"{trainer.global_step}{limit}", **self._shown}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch}"
