"""Batches from several sources of shards without end, as the workers of one process make them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from pixelgen.data.decoding import Decoder, Unusable
from pixelgen.data.images import OTHER_DATA, Item
from pixelgen.data.reader import Reader, Source
from pixelgen.data.tars import SkipCounts

Batch = dict[str, Any]
State = list[int]
"""How many items a mixture has given, then four integers of each source's reader."""


@dataclass(frozen=True)
class Reading:
    """What the workers of all processes read, and how.

    Args:
        sources: the shards.
        decode: makes the item of a sample.
        seed: decides every order.
        buffer_bytes: bytes of undecoded files that each worker holds for shuffling, for all sources together.
    """

    sources: Sequence[Source]
    decode: Decoder
    seed: int = 0
    buffer_bytes: int = 1 << 27

    @property
    def beginning(self) -> State:
        """The state of a mixture that has given nothing yet."""
        return [0] * (1 + 4 * len(self.sources))


class Mixture:
    """The endless items of reader number `reader` of `readers`, from several sources in proportion to their weights.

    Args:
        reading: what to read.
        reader: number of this reader.
        readers: how many there are, of all processes and workers.
        skipped: gets what is left out.
        state: where to resume; the beginning if empty.
    """

    def __init__(
        self, reading: Reading, reader: int, readers: int, skipped: SkipCounts, state: State | None = None
    ) -> None:
        state = state or reading.beginning
        self.decode, self.skipped, self.given = reading.decode, skipped, state[0]
        self.weights = [source.weight for source in reading.sources]
        self._choice = f"{reading.seed}/{reader}/{readers}"
        size = reading.buffer_bytes // len(reading.sources)
        self.readers = [
            Reader(source, reading.seed, reader, readers, size, skipped, state[1 + 4 * i : 5 + 4 * i])
            for i, source in enumerate(reading.sources)
        ]

    def state(self) -> State:
        """What a mixture of the same number needs to go on from here."""
        return [self.given, *(value for reader in self.readers for value in reader.state())]

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        (reader,) = Random(f"{self._choice}/{self.given}").choices(self.readers, self.weights)
        self.given += 1
        while True:
            sample = next(reader)
            try:
                return self.decode(sample)
            except Unusable as verdict:
                self.skipped.add(verdict.reason, f"{sample.key} in {sample.shard} ({verdict.detail})")


class ShardStream(IterableDataset[Batch]):
    """Endless batches of one process' share of the shards; each worker reads a part of it.

    Batches have beside their items two tensors for `ShardLoader`: `state`, of the mixture that made them, after
    them; and `skipped`, what their worker has left out since its last batch.

    Args:
        reading: what to read.
        batch_size: items in a batch.
        length: items of all processes that count as one epoch.
        world_size: number of processes.
        rank: this process.
    """

    def __init__(self, reading: Reading, batch_size: int, length: int, world_size: int = 1, rank: int = 0) -> None:
        self.reading, self.batch_size, self.length = reading, batch_size, length
        self.world_size, self.rank = world_size, rank
        self.first = 0  # number of the first batch
        self.states: list[State] = []  # where each worker goes on; empty for the beginning

    def __len__(self) -> int:
        """Items that count as one epoch."""
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        """Batches number `first` + worker, + workers, …: those that a loader asks this worker for."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        part = (self.first + worker) % workers  # batch b is always made by part b mod workers
        skipped = SkipCounts()
        reader, readers = self.rank * workers + part, self.world_size * workers
        mixture = Mixture(self.reading, reader, readers, skipped, self.states[part] if self.states else None)
        while True:
            batch = collate([next(mixture) for _ in range(self.batch_size)])
            batch["state"], batch["skipped"] = torch.tensor(mixture.state()), torch.tensor(skipped.take())
            yield batch


def collate(items: Sequence[Item]) -> Batch:
    """One batch of items: tensors stacked, labels as a tensor, captions as a list."""
    return default_collate(list(items))


def _stop(running: list[Iterator[Batch]]) -> None:
    """End the workers, which do not listen to SIGTERM; those that wait for a stalled server by force."""
    workers = [worker for iterator in running for worker in getattr(iterator, "_workers", ())]
    running.clear()  # asks each, and waits for it for a few seconds
    for worker in workers:
        if worker.is_alive():
            worker.kill()


class ShardLoader:
    """Batches of a `ShardStream`, a fixed number an epoch, going on where the last epoch ended.

    Args:
        stream: What makes the batches.
        epoch_batches: Batches in an epoch of this process.
        consumed: Returns the number of batches trained on so far; asked when reading begins and for each `state_dict`.
        gather: Stacks a tensor of integers of all processes, this one's being given.
        endless: Whether an epoch goes on where the last one ended; false for the same batches in each.
        options: Arguments of the `DataLoader`.
    """

    def __init__(
        self,
        stream: ShardStream,
        epoch_batches: int,
        consumed: Callable[[], int] = lambda: 0,
        gather: Callable[[Tensor], Tensor] = lambda states: states[None],
        endless: bool = True,
        **options: Any,
    ) -> None:
        self.stream, self.epoch_batches, self.consumed, self.gather = stream, epoch_batches, consumed, gather
        self.endless, self.options = endless, options
        self.workers: int = max(1, options.get("num_workers", 0))
        self.skipped = torch.zeros(len(SkipCounts.REASONS), dtype=torch.int64)
        self._running: list[Iterator[Batch]] = []  # at most one
        # cleared when this loader goes: workers whose iterator ends in a cycle of garbage would each take 5 s to stop
        self.close = weakref.finalize(self, _stop, self._running)
        self._fetched = 0
        self._states: dict[int, State] = {}  # after each of the newest batches, by their numbers

    def __len__(self) -> int:
        return self.epoch_batches

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch."""
        if not self._running or not self.endless:
            self.stream.first = self._fetched = self.consumed()
            self._running[:] = [iter(DataLoader(self.stream, batch_size=None, **self.options))]
        for _ in range(self.epoch_batches):
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
        states = torch.tensor([self._state(part) for part in range(self.workers)])
        gathered = {"states": self.gather(states).tolist(), "skipped": self.gather(self.skipped).sum(0).tolist()}
        return self._order() | gathered

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a run stopped; with other readers or sources, after the passes that it had begun."""
        own = self._order()
        if not own.keys() < state.keys():
            rank_zero_warn(OTHER_DATA)
            return
        if self.stream.rank == 0 and "skipped" in state:  # counts are added up over the processes
            self.skipped = torch.tensor(state["skipped"])
        changed = [f"{name} {state[name]} -> {own[name]}" for name in own if state[name] != own[name]]
        if not changed:
            self.stream.states = state["states"][self.stream.rank]
            return
        rank_zero_warn(
            f"continuing with another order of samples than the checkpoint's ({', '.join(changed)}): "
            "the passes over the shards that it had begun are not finished, the next ones start"
        )
        begun = max(epoch for process in state["states"] for part in process for epoch in part[1::4])
        self.stream.states = [[0, *[begun + 1, 0, 0, 0] * len(own["sources"])]] * self.workers

    def _order(self) -> dict[str, Any]:
        """What the order of samples depends on."""
        reading = self.stream.reading
        return {
            "seed": reading.seed,
            "processes": self.stream.world_size,
            "workers": self.workers,
            "sources": [source.fingerprint for source in reading.sources],
            "weights": [source.weight for source in reading.sources],
            "buffer_bytes": reading.buffer_bytes,  # decides where blocks begin
        }

    def _state(self, part: int) -> State:
        """Of one worker's mixture, after the batches trained on."""
        last = self.consumed() - 1
        newest = last - (last - part) % self.workers
        start = self.stream.states[part] if self.stream.states else self.stream.reading.beginning
        return self._states.get(newest, start)
