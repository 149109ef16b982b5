"""The order in which shards are read: one permutation a pass, split across readers, shuffled in bounded blocks.

Everything here is a function of the seed and of a position, a few integers, so that a reader can resume where another
one stopped.
"""

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
    complete: bool = False

    def fill(self, stream: Iterator[tuple[Sample | None, Position]], size: int, limit: int) -> None:
        """Read on until the block is complete, at `limit` bytes or with the pass, or for now holds `size` bytes."""
        while not self.complete and self.size < size:
            sample, self.end = next(stream)
            if sample is not None:
                self.samples.append(sample)
                self.size += sample.size
            self.complete = sample is None or self.size >= limit

    def pop(self) -> Sample:
        """Take the next sample."""
        sample = self.samples.pop()
        self.size -= sample.size
        return sample


def read(
    source: Source,
    seed: int,
    reader: int,
    readers: int,
    buffer_bytes: int,
    skipped: SkipCounts,
    state: Sequence[int] = (0, 0, 0, 0),
) -> Iterator[tuple[Sample, list[int]]]:
    """The endless samples of reader number `reader` of `readers`: pass after pass over a source, in shuffled blocks.

    A block ends when it holds `buffer_bytes` of undecoded files, or with the pass. The next one is read as this one
    is emptied: both together never hold more than `buffer_bytes` and one sample. With each sample comes the state from
    which a reader of the same number goes on after it: where the block begins (three integers), and how many samples of
    it were taken. What is wrong with the shards goes to `skipped`. A RuntimeError if many passes are without samples.
    """
    position, taken = Position(*state[:3]), state[3]
    stream = _in_order(source, seed, reader, readers, skipped, position)
    following, empty = _Block(position, position), 0
    while empty <= 2 * readers + 2:  # each reader had its turn at every part
        block = following
        block.fill(stream, buffer_bytes, buffer_bytes)
        empty = 0 if block.samples else empty + 1
        full = min(block.size, buffer_bytes)
        place = "/".join(map(str, block.begin))
        Random(f"{seed}/{source.fingerprint}/{reader}/{readers}/{place}").shuffle(block.samples)
        for _ in range(min(taken, len(block.samples))):
            block.pop()
        following = _Block(block.end, block.end)
        while block.samples:
            sample = block.pop()
            taken += 1
            following.fill(stream, full - block.size, buffer_bytes)
            yield sample, [*block.begin, taken]
        taken = 0
    raise RuntimeError(f"no sample could be read from {without_login(source.name)} in {empty} passes over it")


def _in_order(
    source: Source, seed: int, reader: int, readers: int, skipped: SkipCounts, begin: Position
) -> Iterator[tuple[Sample | None, Position]]:
    """Samples from a position on in the order of the shards, each with the position after it; None ends a pass."""
    for epoch in count(begin.epoch):
        parts = parts_of_pass(source, seed, epoch, reader, readers)
        for at in range(begin.shard, len(parts)):
            shard, first, step = parts[at]
            for i, sample in enumerate(read_shard(shard, skipped, epoch)):
                if i >= begin.sample and i % step == first:
                    yield sample, Position(epoch, at, i + 1)
            begin = Position(epoch, at + 1)
        begin = Position(epoch + 1)
        yield None, begin
