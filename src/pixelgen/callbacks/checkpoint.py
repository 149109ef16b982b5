"""Checkpoints that are complete or not there, under names that never need a version number."""

import math
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer, callbacks
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from pixelgen.callbacks.checkpoint_io import DirectIO, link, write_checkpoint
from pixelgen.callbacks.preemption import Stopped, StopRequest
from pixelgen.checks import COUNT, checked
from pixelgen.files import UNFINISHED, remove
from pixelgen.module import PixelGen, is_logging_step


class Checkpoint(callbacks.Checkpoint):
    """Saves `<run>/checkpoints/step_0001000.ckpt` every n steps and after the last one.

    `last.ckpt` always is the newest one and `best.ckpt` the one with the best `monitor`. They share disk space with
    the numbered files where the file system has hard links. Everything is written under another name first, so that
    neither a crash nor a full disk damages a checkpoint.

    On Ctrl-C (SIGINT), SIGHUP, SIGTERM, SIGUSR1 or SIGUSR2 the present step is saved and training ends, with exit
    status 130 after Ctrl-C and 0 else: at once in one process, with several in the next logging step, in which they
    agree on it. A second Ctrl-C ends it without saving.

    Args:
        every_n_steps: optimizer steps between two checkpoints.
        keep_last: how many numbered checkpoints to keep; null keeps all.
        monitor: name of a logged value, such as `fid`; whenever a better one appears, `best.ckpt` is saved.
        mode: whether a lower (`min`) or a higher (`max`) value is better.
    """

    folder: Path  # where checkpoints go, once training has begun
    best_model_score: float | None = None

    @checked(every_n_steps=COUNT, keep_last=COUNT)
    def __init__(
        self,
        every_n_steps: int = 1000,
        keep_last: int | None = 2,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self.every_n_steps, self.keep_last = every_n_steps, keep_last
        self.monitor, self.mode = monitor, mode
        self._seen: float | None = None  # the value monitored last
        self._step = self._saved = 0
        self._stop = StopRequest()

    @property
    def best_model_path(self) -> str:
        """The best checkpoint so far, or nothing, for Lightning's `ckpt_path="best"`."""
        return "" if self.best_model_score is None else str(self.folder / "best.ckpt")

    def setup(self, trainer: Trainer, pl_module: PixelGen, stage: str) -> None:
        """Find the folder of the run, and clear away what was being written when a former process was killed."""
        self.folder = Path(trainer.default_root_dir) / "checkpoints"
        if stage != "fit":
            return
        self._stop = StopRequest()
        self._stop.listen(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # else the user has chosen one
            trainer.strategy.checkpoint_io = DirectIO()
        if trainer.is_global_zero:
            for unfinished in self.folder.glob(UNFINISHED.format("*")):
                remove(unfinished)

    def on_train_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Refuse, with a ValueError, to write over the checkpoints of another run.

        The step that a run is resumed from is saved already: half of the next one must not take its place.
        """
        last = self.folder / "last.ckpt"
        if trainer.ckpt_path is None and trainer.global_step == 0 and last.exists():
            raise ValueError(
                f"{self.folder} holds the checkpoints of another run: resume it with fit(ckpt_path={str(last)!r}), by "
                "its path, or give the Trainer another default_root_dir"
            )
        self._step = self._saved = trainer.global_step
        self._stop.listen(trainer)  # again: Lightning has put its own handlers in front since
        begin_epoch(trainer)

    def on_exception(self, trainer: Trainer, pl_module: PixelGen, exception: BaseException) -> None:
        """Listen to no signals any more."""
        self._stop.forget(trainer)

    def teardown(self, trainer: Trainer, pl_module: PixelGen, stage: str) -> None:
        """Listen to no signals any more."""
        self._stop.forget(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: PixelGen, *args: Any) -> None:
        """Save every n-th and the last step, and whenever the monitored value has got better."""
        step = trainer.global_step
        self._update(trainer, due=step > 0 and (step % self.every_n_steps == 0 or _is_last(trainer)))
        stepped, self._step = step != self._step, step
        together = is_logging_step(trainer, step) or step % self.every_n_steps == 0
        if stepped and self._stop.agreed(trainer, together):
            self.save(trainer)
            rank_zero_info(
                f"{self._stop.name or 'a signal'}: saved step {step} and stopped; "
                "the same command with --ckpt_path last resumes from here"
            )
            raise Stopped(130 if self._stop.name == "SIGINT" and trainer.is_global_zero else 0)

    def on_validation_end(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Save if validation found the monitored value better, or ended the training."""
        self._update(trainer, due=trainer.should_stop)

    def on_train_end(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Save the result, unless its step is saved already."""
        self._update(trainer, due=True)
        if self.monitor is not None and self._seen is None:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            rank_zero_warn(
                f"there is no best.ckpt: no {self.monitor} was logged, only {logged}; set checkpoint.monitor"
            )

    def _update(self, trainer: Trainer, due: bool) -> None:
        """Save if it is due, and what is the best so far as `best.ckpt`."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        better = self._better(trainer)
        if due:
            self.save(trainer)
        best = self.folder / "best.ckpt"
        if better and self._saved != trainer.global_step:
            write_checkpoint(trainer, best)
        elif better and trainer.is_global_zero:
            link(self._numbered(trainer), best)

    def save(self, trainer: Trainer) -> None:
        """Save the present step, unless that has been done; let `last.ckpt` follow, and drop old checkpoints."""
        if self._saved == trainer.global_step:
            return
        write_checkpoint(trainer, self._numbered(trainer), self.folder / "last.ckpt")
        self._saved = trainer.global_step
        if trainer.is_global_zero:
            self._drop_old(trainer)
        trainer.strategy.barrier("checkpoint")

    def _numbered(self, trainer: Trainer) -> Path:
        return self.folder / f"step_{trainer.global_step:07d}.ckpt"

    def _better(self, trainer: Trainer) -> bool:
        """Whether the monitored value is new and the best so far, which is then remembered."""
        value = None if self.monitor is None else trainer.callback_metrics.get(self.monitor)
        if value is None or (score := float(value)) == self._seen:
            return False
        self._seen, best = score, self.best_model_score
        sign = 1 if self.mode == "min" else -1
        better = not math.isnan(score) and (best is None or sign * score < sign * best)
        better = trainer.strategy.broadcast(better)
        if better:
            self.best_model_score = score
        return better

    def _drop_old(self, trainer: Trainer) -> None:
        if self.keep_last is None:
            return
        kept = [Path(path).resolve() for path in (trainer.ckpt_path, self.folder / "best.ckpt") if path is not None]
        numbered = sorted(self.folder.glob("step_*.ckpt"))
        past = [path for path in numbered if int(path.stem[5:]) <= trainer.global_step]
        for path in past[: -self.keep_last]:
            if path.resolve() not in kept:  # where `best.ckpt` is a symbolic link, to a folder of shards
                remove(path)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and the last one seen."""
        return {"best": self.best_model_score, "seen": self._seen, "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best value so far, if the same value is still monitored and means the same."""
        same = (state_dict["monitor"], state_dict.get("mode", self.mode)) == (self.monitor, self.mode)
        if same and state_dict["best"] is not None:
            self.best_model_score, self._seen = state_dict["best"], state_dict["seen"]


def begin_epoch(trainer: Trainer) -> None:
    """Let a run that is resumed after the last batch of an epoch begin the next one.

    Lightning would take this one for begun, and so count one epoch too few: after a second stop in it, the epoch would
    start over, and training end later.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    if trainer.fit_loop.restarted_mid_epoch and progress.ready == progress.processed:
        trainer.fit_loop.reset_restart_stage()


def _is_last(trainer: Trainer) -> bool:
    """Whether training ends after this batch, as far as can be told.

    Saved here, a checkpoint resumes exactly. One saved in `on_train_end` would, at the end of an epoch, resume as if
    one more batch of that epoch were due.
    """
    last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return trainer.should_stop or trainer.global_step == trainer.max_steps or (trainer.is_last_batch and last_epoch)
