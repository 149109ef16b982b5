"""Checkpoints that are complete or not there, under names that never need a version number."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from pixelgen.callbacks.checkpoint_io import Disk, write_error
from pixelgen.callbacks.preemption import Stopped, StopRequest
from pixelgen.callbacks.throughput import pause
from pixelgen.module import is_logging_step


class Checkpoint(ModelCheckpoint):
    """Saves `<run>/checkpoints/step_0001000.ckpt` every n steps and after the last one.

    `last.ckpt` always is the newest one and `best.ckpt` the one with the best `monitor`. They share disk space with
    the numbered files where the file system has hard links. Everything is written under another name first, so that
    neither a crash nor a full disk damages a checkpoint.

    On SIGTERM, SIGUSR1 or SIGUSR2 the present step is saved and training ends with exit status 0: at once in one
    process, with several in the next logging step, in which they agree on it.

    Args:
        every_n_steps: optimizer steps between two checkpoints.
        keep_last: how many numbered checkpoints to keep; null keeps all.
        monitor: name of a logged value, such as `fid`; whenever a better one appears, `best.ckpt` is saved.
        mode: whether a lower (`min`) or a higher (`max`) value is better.
    """

    def __init__(
        self, every_n_steps: int = 1000, keep_last: int | None = 2, monitor: str | None = None, mode: str = "min"
    ) -> None:
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, got {keep_last}: use null to keep all checkpoints")
        super().__init__(
            filename="step_{step:07d}",
            monitor=monitor,
            mode=mode,
            save_top_k=-1,
            every_n_train_steps=every_n_steps,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self._seen: float | None = None
        self._stop, self._step = StopRequest(), 0

    @property
    def state_key(self) -> str:
        """One state, whatever the arguments: they may change when a run is resumed."""
        return type(self).__qualname__

    @property
    def folder(self) -> Path:
        """Where checkpoints go, once training has begun."""
        assert self.dirpath is not None
        return Path(self.dirpath)

    # --- hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder of the run, and clear away what was being written when a former process was killed."""
        self._place(trainer)
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._stop = StopRequest()
        self._stop.listen(trainer)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # else the user has chosen one
            trainer.strategy.checkpoint_io = Disk()
        if trainer.is_global_zero:
            for unfinished in self.folder.glob(".*.unfinished"):
                _remove(unfinished)

    def _place(self, trainer: Trainer) -> None:
        if self.dirpath is None:
            self.dirpath = os.path.join(trainer.default_root_dir, "checkpoints")

    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        self._place(trainer)  # `fit(ckpt_path="last")` asks before `setup`
        return super()._find_last_checkpoints(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every n-th and the last step, and whenever the monitored value has got better."""
        step = trainer.global_step
        better = self._better(trainer)
        if step > 0 and (step % self.every_n_steps == 0 or _is_last(trainer)):
            self.save(trainer)
        if better:
            self._keep_as_best(trainer)
        stepped, self._step = step != self._step, step
        if stepped and self._must_stop(trainer):
            self.save(trainer)
            raise Stopped

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step that a run is resumed from is saved already: half of the next one must not take its place."""
        self._step = trainer.global_step
        self._stop.listen(trainer)  # again: Lightning has put its own handlers in front since
        if trainer.ckpt_path:
            self._last_global_step_saved = trainer.global_step

    def _must_stop(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        together = is_logging_step(trainer, step) or step % self.every_n_steps == 0
        if not (trainer.world_size == 1 or together) or not self._stop.agreed(trainer):
            return False
        rank_zero_info(
            f"{self._stop.name or 'a signal'}: saved step {step} and stopped; "
            "the same command with --ckpt_path last goes on from here"
        )
        return True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: checkpoints go by steps."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if validation found the monitored value better, or ended the training."""
        better = self._better(trainer)
        if trainer.should_stop:
            self.save(trainer)
        if better:
            self._keep_as_best(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result, unless its step is saved already."""
        better = self._better(trainer)
        self.save(trainer)
        if better:
            self._keep_as_best(trainer)
        if self.monitor is not None and self._seen is None:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            rank_zero_warn(
                f"there is no best.ckpt: no {self.monitor} was logged, only {logged}; set checkpoint.monitor"
            )

    # --- saving

    def save(self, trainer: Trainer) -> None:
        """Save the present step, unless that has been done; let `last.ckpt` follow, and drop old checkpoints."""
        if self._should_skip_saving_checkpoint(trainer):
            return
        self._write(trainer, self._numbered(trainer), last=True)
        self._last_global_step_saved = trainer.global_step
        self.last_model_path = str(self.folder / "last.ckpt")
        if trainer.is_global_zero:
            self._drop_old(trainer)
        trainer.strategy.barrier("checkpoint")

    def _numbered(self, trainer: Trainer) -> Path:
        return self.folder / f"step_{trainer.global_step:07d}.ckpt"

    def _better(self, trainer: Trainer) -> bool:
        """Whether the monitored value is new and the best so far, which is then remembered."""
        value = None if self.monitor is None else trainer.callback_metrics.get(self.monitor)
        if value is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return False
        score = float(value)
        if score == self._seen:
            return False
        self._seen = score
        sign = 1 if self.mode == "min" else -1
        best = self.best_model_score
        better = not math.isnan(score) and (best is None or sign * score < sign * float(best))
        better = trainer.strategy.broadcast(better)
        if better:
            self.best_model_score = self.current_score = value.detach().cpu()
            self.best_model_path = str(self.folder / "best.ckpt")
        return better

    def _keep_as_best(self, trainer: Trainer) -> None:
        best = self.folder / "best.ckpt"
        if self._last_global_step_saved != trainer.global_step:
            self._write(trainer, best)
        elif trainer.is_global_zero:
            _link(self._numbered(trainer), best)

    def _write(self, trainer: Trainer, path: Path, last: bool = False) -> None:
        """Save under another name, then rename; with `last`, `last.ckpt` becomes another name of it.

        Raises:
            OSError: on every process, if the file cannot be written; the former checkpoint is still there.
        """
        unfinished = path.with_name(f".{path.name}.unfinished")
        with pause(trainer):
            error = self._attempt(trainer, unfinished, path, last)
            reason = trainer.strategy.broadcast(None if error is None else str(error))
            if reason is not None:
                if trainer.is_global_zero:
                    _remove(unfinished)
                raise OSError(
                    f"could not write the checkpoint {path} ({reason}): free some space or change the run's folder, "
                    "then resume from last.ckpt, which is intact"
                ) from error

    def _attempt(self, trainer: Trainer, unfinished: Path, path: Path, last: bool) -> OSError | None:
        """Write and publish a checkpoint. Returns what the file system refused, which one process alone may know."""
        try:
            trainer.save_checkpoint(unfinished, weights_only=False)  # the whole state, optimizer included
        except (OSError, RuntimeError, CheckpointException) as failure:
            error = write_error(failure)
            if error is None:
                raise
            if not isinstance(failure, CheckpointException):  # which all processes raise
                trainer.strategy.barrier("checkpoint")  # the others have gone on to the end of `save_checkpoint`
            return error
        try:
            if trainer.is_global_zero:
                self._publish(unfinished, path, last)
        except OSError as error:
            return error
        return None

    def _publish(self, unfinished: Path, path: Path, last: bool) -> None:
        """Give a complete checkpoint its names; `last.ckpt` first, so that it is the newest whenever we are killed."""
        _flush(unfinished)
        if last and not unfinished.is_dir():
            _link(unfinished, self.folder / "last.ckpt")
        _rename(unfinished, path)
        if last and path.is_dir():
            _link(path, self.folder / "last.ckpt")

    def _drop_old(self, trainer: Trainer) -> None:
        if self.keep_last is None:
            return
        kept = [Path(path).resolve() for path in (trainer.ckpt_path, self.folder / "best.ckpt") if path is not None]
        numbered = sorted(self.folder.glob("step_*.ckpt"))
        past = [path for path in numbered if int(path.stem[5:]) <= trainer.global_step]
        for path in past[: -self.keep_last]:
            if path.resolve() not in kept:  # where `best.ckpt` is a symbolic link, to a folder of shards
                _remove(path)

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and the last one seen."""
        best = self.best_model_score
        return {"best": None if best is None else float(best), "seen": self._seen, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best value so far, if the same value is still monitored."""
        if state_dict["monitor"] == self.monitor and state_dict["best"] is not None:
            self.best_model_score = Tensor([state_dict["best"]]).squeeze()
            self.best_model_path = str(self.folder / "best.ckpt")
            self._seen = state_dict["seen"]


def _is_last(trainer: Trainer) -> bool:
    """Whether training ends after this batch, as far as can be told.

    Saved here, a checkpoint resumes exactly. One saved in `on_train_end` would, at the end of an epoch, resume as if
    one more batch of that epoch were due.
    """
    last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return trainer.should_stop or trainer.global_step == trainer.max_steps or (trainer.is_last_batch and last_epoch)


def _link(path: Path, name: Path) -> None:
    """Let `name` be another name of `path`: a hard link, a symbolic link to a folder, or a copy."""
    unfinished = name.with_name(f".{name.name}.unfinished")
    _remove(unfinished)
    if path.is_dir():  # a sharded checkpoint
        unfinished.symlink_to(path.name)
    else:
        try:
            os.link(path, unfinished)
        except OSError:
            shutil.copyfile(path, unfinished)
    _rename(unfinished, name)


def _flush(path: Path) -> None:
    """Wait until a file, or all files of a folder, are on the disk."""
    for file in path.iterdir() if path.is_dir() else [path]:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _rename(unfinished: Path, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # files are replaced atomically, folders cannot be
        shutil.rmtree(path)
    os.replace(unfinished, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
