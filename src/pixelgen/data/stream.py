"""Batches from several sources of shards without end, as the workers of one process make them."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from random import Random
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from pixelgen.data.decoding import Decoder
from pixelgen.data.order import OTHER_DATA, other_order
from pixelgen.data.reader import Source, read
from pixelgen.data.tars import SkipCounts

Batch = dict[str, Any]
State = list[int]  # of a worker: how many items it has given, then four integers of each source's reader


@dataclass(eq=False)
class ShardStream(IterableDataset[Batch]):
    """Endless batches of one process' share of the shards; each worker reads a part of it.

    Items come from the sources in proportion to their weights. For shuffling, each worker holds `buffer_bytes` of
    undecoded files of all sources together. `length` items of all processes count as one epoch. Batches have beside
    their items two tensors for `ShardLoader`: `state`, of the part that made them, after them; and `skipped`, what
    their worker has left out since its last batch.
    """

    sources: Sequence[Source]
    decode: Decoder
    batch_size: int
    length: int
    seed: int = 0
    buffer_bytes: int = 1 << 27
    world_size: int = 1
    rank: int = 0
    first: int = field(default=0, init=False)  # number of the first batch
    states: list[State] = field(default_factory=list, init=False)  # where each part goes on; empty for the beginning

    def __len__(self) -> int:
        return self.length

    def state(self, part: int) -> State:
        """Where a part goes on."""
        return self.states[part] if self.states else [0] * (1 + 4 * len(self.sources))

    def __iter__(self) -> Iterator[Batch]:
        """Batches number `first` + worker, + workers, …: those that a loader asks this worker for."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        part = (self.first + worker) % workers  # batch b is always made by part b mod workers
        reader, readers = self.rank * workers + part, self.world_size * workers
        given, *state = self.state(part)
        states = [state[i : i + 4] for i in range(0, len(state), 4)]
        skipped, size = SkipCounts(), self.buffer_bytes // len(self.sources)
        sources = [
            self.decode.usable(read(source, self.seed, reader, readers, size, skipped, state), skipped)
            for source, state in zip(self.sources, states, strict=True)
        ]
        weights = [source.weight for source in self.sources]
        while True:
            items = []
            for number in range(given, given + self.batch_size):
                (i,) = Random(f"{self.seed}/{reader}/{readers}/{number}").choices(range(len(sources)), weights)
                item, states[i] = next(sources[i])
                items.append(item)
            given += self.batch_size
            after = torch.tensor([given, *chain(*states)])
            yield default_collate(items) | {"state": after, "skipped": torch.tensor(skipped.take())}


def _stop(running: list[Iterator[Batch]]) -> None:
    """End the workers, which do not listen to SIGTERM; those that wait for a stalled server by force."""
    workers = [worker for iterator in running for worker in getattr(iterator, "_workers", ())]
    running.clear()  # asks each, and waits for it for a few seconds
    for worker in workers:
        if worker.is_alive():
            worker.kill()


class ShardLoader:
    """Batches of a `ShardStream`, a fixed number an epoch, going on where the last epoch ended.

    `consumed` returns the number of batches trained on so far, and is asked when reading begins and for each
    `state_dict`; without it each epoch has the same batches. `gather` stacks a tensor of integers of all processes,
    this one's being given. `options` are arguments of the `DataLoader`.
    """

    def __init__(
        self,
        stream: ShardStream,
        consumed: Callable[[], int] | None = None,
        gather: Callable[[Tensor], Tensor] = lambda states: states[None],
        **options: Any,
    ) -> None:
        self.stream, self.gather, self.options = stream, gather, options
        self.endless, self.consumed = consumed is not None, consumed or (lambda: 0)
        self.workers: int = max(1, options.get("num_workers", 0))
        self.skipped = torch.zeros(len(SkipCounts.REASONS), dtype=torch.int64)
        self._running: list[Iterator[Batch]] = []  # at most one
        # cleared when this loader goes: workers whose iterator ends in a cycle of garbage would each take 5 s to stop
        self.close = weakref.finalize(self, _stop, self._running)
        self._fetched = 0
        self._states: dict[int, State] = {}  # after each of the newest batches, by their numbers

    def __len__(self) -> int:
        return self.stream.length // (self.stream.batch_size * self.stream.world_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch."""
        if not self._running or not self.endless:
            self.stream.first = self._fetched = self.consumed()
            self._running[:] = [iter(DataLoader(self.stream, batch_size=None, **self.options))]
        for _ in range(len(self)):
            batch = next(self._running[0])
            self._states[self._fetched] = batch.pop("state").tolist()
            self._states.pop(self._fetched - 4 * self.workers - 4, None)  # no checkpoint lags that far behind
            self.skipped += batch.pop("skipped")
            self._fetched += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The order of samples, where each reader of each process stands in it, and what was left out so far.

        Call it in all processes.
        """
        last, states = self.consumed() - 1, []
        for part in range(self.workers):
            newest = last - (last - part) % self.workers  # of this part's batches that were trained on
            states.append(self._states.get(newest, self.stream.state(part)))
        gathered = {"states": self.gather(torch.tensor(states)), "skipped": self.gather(self.skipped).sum(0)}
        return self._order() | {name: tensor.tolist() for name, tensor in gathered.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a run stopped; with other readers or sources, after the passes that it had begun."""
        own = self._order()
        if not own.keys() < state.keys():
            rank_zero_warn(OTHER_DATA)
            return
        if self.stream.rank == 0 and "skipped" in state:  # counts are added up over the processes
            self.skipped[: len(state["skipped"])] = torch.tensor(state["skipped"])  # there were fewer reasons once
        if change := other_order(state, own):
            rank_zero_warn(
                f"{change}: the passes over the shards that it had begun are not finished, the next ones start"
            )
            begun = max(epoch for process in state["states"] for part in process for epoch in part[1::4])
            self.stream.states = [[0, *[begun + 1, 0, 0, 0] * len(own["sources"])]] * self.workers
        else:
            self.stream.states = state["states"][self.stream.rank]

    def _order(self) -> dict[str, Any]:
        """What the order of samples depends on."""
        return {
            "seed": self.stream.seed,
            "processes": self.stream.world_size,
            "workers": self.workers,
            "sources": [source.fingerprint for source in self.stream.sources],
            "weights": [source.weight for source in self.stream.sources],
            "buffer_bytes": self.stream.buffer_bytes,  # decides where blocks begin
        }
