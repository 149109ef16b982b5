"""What the processes of a run tell each other beside the states of metrics."""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def of_the_first(value: T) -> T:
    """The first process's value, on all of them."""
    if not _several():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def of_all(values: list[T]) -> list[T]:
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
