"""Writing checkpoints: complete or not there, straight to where they belong, and one message if the disk is full."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from torch.distributed.checkpoint.api import CheckpointException

from pixelgen.callbacks.periodic import pause
from pixelgen.files import UNFINISHED, publish, remove


class DirectIO(TorchCheckpointIO):
    """Writes a checkpoint into its file.

    Lightning's own goes by way of a copy in memory and of the system's temporary folder, which is often smaller than a
    checkpoint, and where what a killed run was writing stays.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


def write_checkpoint(trainer: Trainer, path: Path, last: Path | None = None) -> None:
    """Save the state of training, on all processes, under a temporary name that becomes `path` when it is complete.

    With `last`, this becomes another name of it; first, so that it is the newest one whenever the run is killed. If
    the file cannot be written, every process raises an OSError, and the former checkpoint is still there.
    """
    unfinished = path.with_name(UNFINISHED.format(path.name))
    error: OSError | None = None
    with pause(trainer):
        try:
            _save(trainer, unfinished)
            if trainer.is_global_zero:
                _publish(unfinished, path, last)
        except OSError as failure:  # which one process alone may know of
            error = failure
        reason = trainer.strategy.broadcast(None if error is None else str(error))
    if reason is not None:
        if trainer.is_global_zero:
            remove(unfinished)
        raise OSError(
            f"could not write the checkpoint {path} ({reason}): free some space or change the run's folder, "
            "then resume from last.ckpt, which is intact"
        ) from error


def _save(trainer: Trainer, path: Path) -> None:
    try:
        trainer.save_checkpoint(path, weights_only=False)  # the whole state, optimizer included
    except (OSError, RuntimeError, CheckpointException) as failure:
        error = write_error(failure)
        if error is None:
            raise
        if not isinstance(failure, CheckpointException):  # which all processes raise
            trainer.strategy.barrier("checkpoint")  # the others have gone on to the end of `save_checkpoint`
        raise error from failure


def _publish(unfinished: Path, path: Path, last: Path | None) -> None:
    if last is not None and unfinished.is_file():
        link(unfinished, last)
    publish(unfinished, path)
    if last is not None and path.is_dir():  # shards, whose link must not lead nowhere
        link(path, last)


def link(path: Path, name: Path) -> None:
    """Let `name` be another name of `path`: a hard link, a symbolic link to a folder, or a copy."""
    unfinished = name.with_name(UNFINISHED.format(name.name))
    remove(unfinished)
    if path.is_dir():  # a sharded checkpoint
        unfinished.symlink_to(path.name)
    else:
        try:
            os.link(path, unfinished)
        except OSError:
            shutil.copyfile(path, unfinished)
    publish(unfinished, name)


def write_error(error: BaseException) -> OSError | None:
    """The error of the file system behind one of torch's; None if it is about something else."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, CheckpointException):  # of the processes that write shards
        return next((found for one, _ in error.failures.values() if (found := write_error(one))), None)
    if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch's writer of files
        return error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))
    return None
