"""Who reads what, in which order, and how much of it is held in memory."""

from itertools import islice

import pytest

from pixelgen.data import reader as reader_module
from pixelgen.data.reader import Position, Source, parts_of_pass, read
from pixelgen.data.tars import SkipCounts, expand_shards
from shard_files import write_shards, write_tar

BIG = 1 << 30


def source(folder, lengths, **options):
    return Source("source", tuple(expand_shards(write_shards(folder, lengths, **options))))


def reader(of, number=0, readers=1, buffer_bytes=BIG, state=(0, 0, 0, 0), seed=3):
    return read(of, seed, number, readers, buffer_bytes, SkipCounts(), state)


def one_pass(of, number, readers, epoch, **options):
    """Keys of one reader's pass, read from its beginning."""
    keys = []
    for sample, _ in reader(of, number, readers, state=(epoch, 0, 0, 0), **options):
        if sample.epoch != epoch:
            return keys
        keys.append(int(sample.key))


@pytest.mark.parametrize(
    ("lengths", "readers"),
    [
        ([3] * 8, 4),  # even
        ([1, 9, 2, 7, 3, 5, 4], 4),  # uneven, and shards left over
        ([5, 6, 7], 8),  # fewer shards than readers
        ([40], 4),
        ([2, 1], 4),  # fewer samples than readers
    ],
)
def test_each_pass_is_disjoint_and_complete(tmp_path, lengths, readers):
    of = source(tmp_path, lengths)
    for epoch in (0, 1, 5):
        keys = [key for number in range(readers) for key in one_pass(of, number, readers, epoch)]
        assert sorted(keys) == list(range(sum(lengths)))


def test_whole_shards_come_equally_and_the_rest_by_samples():
    of = Source("s", tuple(f"{i}.tar" for i in range(11)))
    parts = [parts_of_pass(of, 0, 4, number, 4) for number in range(4)]
    assert [[part.step for part in mine] for mine in parts] == [[1, 1, 2], [1, 1, 1], [1, 1, 1], [1, 1, 2]]
    whole = [part.shard for mine in parts for part in mine[:2]]
    assert len(set(whole)) == 8
    assert {part.shard for mine in parts for part in mine[2:]} == set(of.shards) - set(whole)


def test_order_is_that_of_seed_and_pass_and_names_alone():
    of = Source("s", tuple(f"{i}.tar" for i in range(50)))
    moved = Source("elsewhere", tuple(f"/data/{i}.tar" for i in range(50)))

    def order(source, seed, epoch):
        return [part.shard.rpartition("/")[2] for part in parts_of_pass(source, seed, epoch, 0, 1)]

    assert order(of, 0, 0) == order(moved, 0, 0)
    assert len({tuple(order(of, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_everyone_has_its_turn_where_samples_are_fewer_than_readers(tmp_path):
    of = source(tmp_path, [1])
    takers = [[bool(one_pass(of, number, 3, epoch)) for number in range(3)] for epoch in range(3)]
    assert sorted(takers) == [[False, False, True], [False, True, False], [True, False, False]]
    assert next(reader(of, 1, 3))[0].key == "000000"


@pytest.mark.parametrize("buffer_bytes", [1, 2000, 5000, BIG])
def test_shuffling_holds_no_more_than_the_bytes_given(tmp_path, monkeypatch, buffer_bytes):
    samples = [(f"{i:06d}", {"txt": "t" * (100 + 7 * (i % 90))}) for i in range(200)]
    of = Source("s", (str(write_tar(tmp_path / "a.tar", samples)),))
    total, largest = sum(100 + 7 * (i % 90) for i in range(200)), 100 + 7 * 89
    opened = reader_module.read_shard
    fetched, taken, held, keys = [], 0, [], []

    def watched(*arguments):
        for sample in opened(*arguments):
            fetched.append(sample.size)
            yield sample

    monkeypatch.setattr(reader_module, "read_shard", watched)
    for sample, _ in islice(reader(of, buffer_bytes=buffer_bytes), 200):
        assert taken or sum(fetched) >= min(buffer_bytes, total)  # a whole block is there before its first sample
        taken += sample.size
        held.append(sum(fetched) - taken)
        keys.append(int(sample.key))
    assert max(held) < min(buffer_bytes, total) + largest
    assert sorted(keys) == list(range(200))
    assert (keys == list(range(200))) == (buffer_bytes == 1)


def test_blocks_do_not_depend_on_reading_ahead(tmp_path):
    """The samples between two beginnings of a block are those that stand together in the shard."""
    of = source(tmp_path, [100])
    blocks = {}
    for sample, state in islice(reader(of, buffer_bytes=1000), 100):
        blocks.setdefault(tuple(state[:3]), []).append(int(sample.key))
    assert [sorted(block) for block in blocks.values()] == [
        list(range(begin[2], begin[2] + len(block))) for begin, block in blocks.items()
    ]
    assert len(blocks) > 5
    assert any(block != sorted(block) for block in blocks.values())


@pytest.mark.parametrize("taken", [0, 1, 17, 39, 40, 63, 200])
@pytest.mark.parametrize("buffer_bytes", [600, BIG])
def test_a_reader_goes_on_where_another_stopped(tmp_path, taken, buffer_bytes):
    of = source(tmp_path, [9, 1, 20, 10])

    def told(samples):
        return [(sample.epoch, sample.key, state) for sample, state in samples]

    straight = told(islice(reader(of, 1, 2, buffer_bytes), taken + 30))
    state = straight[taken - 1][2] if taken else (0, 0, 0, 0)
    assert told(islice(reader(of, 1, 2, buffer_bytes, state), 30)) == straight[taken:]


def test_passes_have_orders_of_their_own(tmp_path):
    of = source(tmp_path, [30])
    keys = [one_pass(of, 0, 1, epoch) for epoch in range(3)]
    assert keys[0] != keys[1] != keys[2]
    assert Position(2) == (2, 0, 0)


def test_a_source_that_has_vanished_is_named(tmp_path):
    of = Source("my/shards", (str(tmp_path / "gone.tar"),))
    with (
        pytest.warns(UserWarning, match="unreadable shard"),
        pytest.raises(RuntimeError, match="my/shards in 5 passes"),
    ):
        next(reader(of))
