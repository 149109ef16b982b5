"""The order in which shards are read: one permutation a pass, split across readers, shuffled in bounded blocks.

Everything here is a function of the seed and of a position, a few integers, so that a reader can resume where another
one stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from random import Random
from typing import NamedTuple
from zlib import crc32

from pixelgen.data.remote import without_login
from pixelgen.data.tars import Sample, SkipCounts, read_shard


@dataclass(frozen=True)
class Source:
    """Shards that are walked through together, and the share of all samples that comes from them."""

    name: str
    shards: tuple[str, ...]
    weight: float = 1.0

    @cached_property
    def fingerprint(self) -> str:
        """What the order of its samples depends on: number and names of the shards, not where they lie."""
        names = "\n".join(shard.rpartition("/")[2] for shard in self.shards)
        return f"{len(self.shards)} shards {crc32(names.encode()):08x}"

    def samples(self, skipped: SkipCounts) -> Iterator[Sample]:
        """All samples in the order of the shards."""
        return (sample for shard in self.shards for sample in read_shard(shard, skipped))


class Position(NamedTuple):
    """Of a reader: pass over all shards, number of its shard in that pass, sample of that shard."""

    epoch: int = 0
    shard: int = 0
    sample: int = 0


class Part(NamedTuple):
    """What one reader reads of a shard: its samples number `first`, `first + step`, …"""

    shard: str
    first: int
    step: int


def parts_of_pass(source: Source, seed: int, epoch: int, reader: int, readers: int) -> list[Part]:
    """The part of one of several readers in one pass: together they read every sample of the source exactly once.

    The shards are permuted by (seed, their names, epoch) alone. Each reader takes equally many whole shards;
    those left over, or all if there are fewer shards than readers, are shared sample by sample. Who takes which part
    moves on by one with each pass.
    """
    order = list(source.shards)
    Random(f"{seed}/{source.fingerprint}/{epoch}").shuffle(order)
    turn = (reader + epoch) % readers
    whole = len(order) // readers * readers
    parts = [Part(shard, 0, 1) for shard in order[turn:whole:readers]]
    rest = order[whole:]
    if rest:
        column, row = turn % len(rest), turn // len(rest)
        parts.append(Part(rest[column], row, len(range(column, readers, len(rest)))))
    return parts


@dataclass
class _Block:
    """Consecutive samples of a reader, which are shuffled among themselves; `size` is their bytes."""

    begin: Position
    end: Position
    samples: list[Sample] = field(default_factory=list)
    size: int = 0
    taken: int = 0
    complete: bool = False

    def pop(self) -> Sample:
        """Take the next sample."""
        sample = self.samples.pop()
        self.size -= sample.size
        self.taken += 1
        return sample


class Reader(Iterator[Sample]):
    """The endless samples of reader number `reader` of `readers`: pass after pass over a source, in shuffled blocks.

    A block ends when it holds `buffer_bytes` of undecoded files, or with the pass. The next one is read as this one
    is emptied: both together never hold more than `buffer_bytes` and one sample. What is wrong with the shards goes to
    `skipped`. Reading goes on from `state`, that of another reader of the same number. It ends with a RuntimeError if
    the source has had no samples in many passes.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        reader: int,
        readers: int,
        buffer_bytes: int,
        skipped: SkipCounts,
        state: Sequence[int] = (0, 0, 0, 0),
    ) -> None:
        self.source, self.seed, self.reader, self.readers = source, seed, reader, readers
        self.buffer_bytes, self.skipped = buffer_bytes, skipped
        *position, taken = state
        begin = Position(*position)
        self._stream = self._read(begin)
        self._next = _Block(begin, begin)
        self._turn_to_next()
        for _ in range(min(taken, len(self._block.samples))):
            self._block.pop()

    @property
    def held_bytes(self) -> int:
        """Bytes in memory."""
        return self._block.size + self._next.size

    def state(self) -> list[int]:
        """Beginning of the present block (three integers), and how many samples of it were taken."""
        return [*self._block.begin, self._block.taken]

    def __next__(self) -> Sample:
        empty_passes = 0
        while not self._block.samples:
            self._turn_to_next()
            empty_passes += not self._block.samples
            if empty_passes > 2 * self.readers + 2:  # each reader had its turn at every part
                raise RuntimeError(
                    f"no sample could be read from {without_login(self.source.name)} in {empty_passes} passes over it"
                )
        sample = self._block.pop()
        self._fill(self._next, self._full - self._block.size)
        return sample

    def _turn_to_next(self) -> None:
        """Complete the next block, shuffle it and make it the present one."""
        block = self._block = self._next
        self._fill(block, self.buffer_bytes)
        self._full = min(block.size, self.buffer_bytes)
        position = "/".join(map(str, block.begin))
        Random(f"{self.seed}/{self.source.fingerprint}/{self.reader}/{self.readers}/{position}").shuffle(block.samples)
        self._next = _Block(block.end, block.end)

    def _fill(self, block: _Block, size: int) -> None:
        """Read on until the block is complete, or for now holds `size` bytes."""
        while not block.complete and block.size < size:
            sample, block.end = next(self._stream)
            if sample is not None:
                block.samples.append(sample)
                block.size += sample.size
            block.complete = sample is None or block.size >= self.buffer_bytes

    def _read(self, begin: Position) -> Iterator[tuple[Sample | None, Position]]:
        """Samples from a position on in the order of the shards, each with the position after it; None ends a pass."""
        number, first = begin.shard, begin.sample
        for epoch in count(begin.epoch):
            parts = parts_of_pass(self.source, self.seed, epoch, self.reader, self.readers)
            for at in range(number, len(parts)):
                part = parts[at]
                for i, sample in enumerate(read_shard(part.shard, self.skipped, epoch)):
                    if i >= first and i % part.step == part.first:
                        yield sample, Position(epoch, at, i + 1)
                first = 0
            number = 0
            yield None, Position(epoch + 1)
