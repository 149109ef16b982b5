"""The processes of a command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from lightning import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def launch(devices: int = 1, precision: Precision = "bf16-mixed", num_nodes: int = 1) -> Fabric:
    """One process for each device, GPUs where there are any; started here, or by torchrun or SLURM.

    Args:
        devices: processes on this machine.
        precision: of the networks' matrix products under `fabric.autocast()`.
        num_nodes: machines.

    Raises:
        ValueError: if there are not as many devices.
    """
    if devices < 1:
        raise ValueError(f"devices is {devices}: give at least 1")
    with _quiet():
        try:
            fabric = Fabric(devices=devices, precision=precision, num_nodes=num_nodes)
        except MisconfigurationException as error:
            raise ValueError(f"there are no {devices} devices ({' '.join(str(error).split())}): give fewer") from error
        fabric.launch()
    return fabric


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning would tell of each process and of the precision."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("fabric", "pytorch")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
