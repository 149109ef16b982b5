"""The progress bar of a run that is counted in steps."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar

from pixelgen.module import PixelGen, is_logging_step

_REDRAWS_PER_SECOND = 4  # with the 100 of Lightning every step is drawn: over 1 ms of Python each time


class Progress(RichProgressBar):
    """Rich progress bar without epoch limits and version numbers, which say nothing about a run that goes by steps."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=_REDRAWS_PER_SECOND, leave=False)
        self._shown: dict[str, Any] = {}
        self._read = 0

    @property
    def total_train_batches(self) -> int | float:
        """Batches of this epoch up to its end or the last step, those before a resumption included."""
        trainer = self.trainer
        epoch = trainer.num_training_batches
        if trainer.max_steps < 0:
            return epoch
        begun = trainer.fit_loop.epoch_loop.batch_progress.current.ready % epoch
        return min(epoch, begun + (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)

    def get_metrics(self, trainer: Trainer, pl_module: PixelGen) -> dict[str, Any]:
        """What stands behind the bar: the step, the loss, and what else is logged with `prog_bar=True`.

        Reading logged values waits for the device, so they are read once in a logging step. Anything logged with
        `prog_bar=True` makes Lightning read it in every step, which is why the loss is not.
        """
        step = trainer.global_step
        if step != self._read and is_logging_step(trainer, step):
            self._read = step
            self._shown = super().get_metrics(trainer, pl_module)
            self._shown.pop("v_num", None)
            if "loss" in trainer.callback_metrics:
                self._shown["loss"] = float(trainer.callback_metrics["loss"])
        limit = "" if trainer.max_steps < 0 else f"/{trainer.max_steps}"
        return {"step": f"{step}{limit}", **self._shown}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch}"
