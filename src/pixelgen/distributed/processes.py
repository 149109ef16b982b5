"""The processes of a command or a run: how they start, and what they tell each other."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from lightning import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
T = TypeVar("T")
_depth: list[int] = []  # of `agree` in `agree`, in this process


def launch(devices: int, precision: Precision, num_nodes: int = 1) -> Fabric:
    """One process for each of the `devices` of each machine, GPUs where there are any, or as torchrun or SLURM say.

    `precision` is that of the networks' matrix products under `fabric.autocast()`.
    """
    most = torch.cuda.device_count() or max(4, os.cpu_count() or 1)
    if not 1 <= devices <= most:
        raise ValueError(f"devices is {devices}: give a number from 1 to {most} on this machine")
    former = logging.root.manager.disable
    logging.disable(max(former, logging.INFO))  # Lightning would tell of each process and of the precision
    try:
        fabric = Fabric(devices=devices, precision=precision, num_nodes=num_nodes)
        fabric.launch()
    except MisconfigurationException as error:
        raise ValueError(f"there are no {devices} devices ({' '.join(str(error).split())}): give fewer") from error
    finally:
        logging.disable(former)
    return fabric


@contextmanager
def agree() -> Iterator[None]:
    """If a process fails in here, all of them do: none waits at the end, or at one inside, for one that has left.

    What else the processes do together in here, such as sums over all of them, must not be where one can fail alone.
    """
    _depth.append(len(_depth))
    depth, failure, reasons = len(_depth), None, list[str]()
    try:
        yield
    except Exception as error:
        failure = error
    finally:
        _depth.pop()
    while True:  # a process that left an inner one without its end waits here until the others have left it too
        parts = gather([(depth, "" if failure is None else str(failure) or repr(failure))])
        reasons += [reason for _, reason in parts if reason]
        if max(inner for inner, _ in parts) <= depth:
            break
    if failure is not None:
        raise failure
    if reasons:
        raise ValueError(f"another process has failed: {reasons[0]}")


@contextmanager
def progress(fabric: Fabric, images: int, batches: int, what: str = "images") -> Iterator[Any]:
    """A bar on rank 0 over the images of all processes; it advances by calls, `batches` in all."""
    speed = TextColumn("{task.fields[speed]}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn()
    with Progress(*columns, disable=fabric.global_rank != 0 or images == 0) as bar:
        task = bar.add_task(what, total=images, speed="")
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            completed = images * done / batches
            elapsed = bar.tasks[task].elapsed or 0.0
            speed = f"{completed / elapsed:.1f} images/s" if elapsed else ""
            bar.update(task, completed=round(completed), speed=speed)

        yield advance


def first(value: T) -> T:
    """The first process's value (any object), on all of them; no trainer or Fabric need be at hand."""
    if not _several():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather(values: list[T]) -> list[T]:
    """The lists of all processes, one after the other."""
    if not _several():
        return values
    gathered: list[list[T] | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, values)
    return [value for part in gathered for value in part or []]


def is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return not _several() or distributed.get_rank() == 0


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
