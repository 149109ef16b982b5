"""Checkpoints go straight to where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException


class Disk(TorchCheckpointIO):
    """Writes a checkpoint into its file.

    Lightning's own goes by way of a copy in memory and of the system's temporary folder, which is often smaller than a
    checkpoint, and where what a killed run was writing stays.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


def write_error(error: BaseException) -> OSError | None:
    """The error of the file system behind one of torch's; None if it is about something else."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, CheckpointException):  # of the processes that write shards
        return next((found for one, _ in error.failures.values() if (found := write_error(one))), None)
    if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch's writer of files
        return error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))
    return None
