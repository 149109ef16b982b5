"""Logging from any hook."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer


def log(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Give values to every logger at the current step, and to `trainer.callback_metrics` for callbacks to watch.

    `self.log` refuses in several hooks (`on_train_end` among them), and elsewhere logs only every
    `log_every_n_steps`.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=trainer.global_step)
        logger.save()
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
