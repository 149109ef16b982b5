"""Batches of several workers and processes: disjoint, complete, mixed by weight, and the same after a stop."""

import warnings
from collections import Counter
from itertools import islice

import pytest
import torch

from pixelgen.data.captions import Captions
from pixelgen.data.decoding import Decoder
from pixelgen.data.reader import Source
from pixelgen.data.shapes import ShapesData
from pixelgen.data.stream import ShardLoader, ShardStream
from pixelgen.data.tars import SkipCounts, expand_shards
from shard_files import picture, write_shards, write_tar

CAPTIONS = Captions(prefix_probability=0)


def sources(folder, *lengths, weights=None):
    patterns = [write_shards(folder / str(i), n, captions=True, start=1000 * i) for i, n in enumerate(lengths)]
    weights = weights or [1.0] * len(lengths)
    return [Source(name, tuple(expand_shards(name)), w) for name, w in zip(patterns, weights, strict=True)]


def stream(of, batch_size=2, length=8, rank=0, world_size=1, buffer_bytes=800, decoder=None):
    decoder = decoder or Decoder(8, captions=CAPTIONS)
    return ShardStream(of, decoder, batch_size, length, 3, buffer_bytes, world_size, rank)


class Run:
    """A process that trains on every batch it gets and can be stopped."""

    def __init__(self, of, num_workers=0, epoch_batches=4, batch_size=2, world_size=1, **options):
        self.trained, self.seen = 0, []
        batches = stream(of, batch_size, epoch_batches * batch_size * world_size, world_size=world_size, **options)
        self.loader = ShardLoader(batches, lambda: self.trained, num_workers=num_workers)

    def train(self, batches):
        while batches:
            for batch in islice(self.loader, batches):
                self.seen.append([int(caption) for caption in batch["caption"]])
                self.trained, batches = self.trained + 1, batches - 1
        return self

    def resume(self, state, trained):
        self.trained = trained
        self.loader.load_state_dict(state)
        return self


def test_two_processes_with_two_workers_read_everything_once(tmp_path):
    """2 x 2 readers of 4 + 1 samples each in a pass: 4 shards whole, and one shared by all."""
    of = sources(tmp_path, [4, 4, 4, 4, 4])
    runs = [Run(of, 2, rank=rank, world_size=2, batch_size=5).train(6) for rank in (0, 1)]
    passes = [[key for run in runs for batch in run.seen[i : i + 2] for key in batch] for i in (0, 2, 4)]
    assert [sorted(keys) for keys in passes] == [list(range(20))] * 3
    assert passes[0] != passes[1]


def test_uneven_shards_give_as_many_batches_to_everyone(tmp_path):
    of = sources(tmp_path, [1, 30, 2])
    runs = [Run(of, rank=rank, world_size=4).train(20) for rank in range(4)]
    assert [len(run.seen) for run in runs] == [20] * 4
    counts = Counter(key for run in runs for batch in run.seen for key in batch)
    assert set(counts) == set(range(33))
    assert max(counts.values()) - min(counts.values()) <= 4  # 160 of 33 samples are about five passes


def test_epochs_are_of_fixed_length_and_go_on_where_the_last_one_ended(tmp_path):
    run = Run(sources(tmp_path, [12]), epoch_batches=2)
    assert len(run.loader) == 2
    batches = [batch["caption"] for _ in range(3) for batch in run.loader]
    assert sorted(int(caption) for batch in batches for caption in batch) == list(range(12))


def test_sources_are_mixed_by_weight(tmp_path):
    run = Run(sources(tmp_path, [5, 5], [40], weights=[3, 1]), batch_size=10).train(80)
    keys = [key for batch in run.seen for key in batch]
    assert sum(key < 1000 for key in keys) / 800 == pytest.approx(0.75, abs=0.045)
    assert Counter(key for key in keys if key < 1000).most_common()[0][1] in (60, 61, 62)  # each source by passes
    assert {key for key in keys if key >= 1000} == set(range(1000, 1040))


@pytest.mark.parametrize("stop", [0, 3, 4, 9])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_run_sees_what_it_would_have_seen(tmp_path, num_workers, stop):
    of = sources(tmp_path, [4, 7, 2], [6, 5])
    straight = Run(of, num_workers).train(stop + 8)
    stopped = Run(of, num_workers).train(stop)
    state = stopped.loader.state_dict()
    resumed = Run(of, num_workers).resume(state, stop).train(8)
    assert stopped.seen + resumed.seen == straight.seen
    assert resumed.loader.state_dict() == straight.loader.state_dict()


def test_batches_fetched_but_not_trained_on_are_repeated(tmp_path):
    of = sources(tmp_path, [9, 9])
    run = Run(of).train(3)
    next(iter(run.loader))
    resumed = Run(of).resume(run.loader.state_dict(), 3).train(5)
    assert run.seen + resumed.seen == Run(of).train(8).seen


def test_resuming_with_another_batch_size_goes_on_in_the_same_order(tmp_path):
    of = sources(tmp_path, [20])
    stopped = Run(of, batch_size=3).train(2)
    resumed = Run(of, batch_size=7).resume(stopped.loader.state_dict(), 2).train(2)
    straight = Run(of, batch_size=20).train(1)
    assert [key for run in (stopped, resumed) for batch in run.seen for key in batch] == straight.seen[0]


def test_other_readers_start_with_the_passes_that_nobody_has_begun(tmp_path):
    of = sources(tmp_path, [6, 6])
    stopped = Run(of, batch_size=4).train(4)  # 12 of the first pass, 4 of the second
    changed = Run(of, 2, batch_size=3)
    with pytest.warns(UserWarning, match="another order of samples than the checkpoint's .*workers 1 -> 2"):
        changed.resume(stopped.loader.state_dict(), 4)
    changed.train(4)
    assert sorted(key for batch in changed.seen for key in batch) == list(range(12))
    assert {state[1] for state in changed.loader.state_dict()["states"][0]} == {2}
    on = Run(of, 2, batch_size=3).resume(changed.loader.state_dict(), 8).train(2)
    assert on.seen == changed.train(2).seen[4:]


def test_blocks_of_another_size_are_another_order(tmp_path):
    of = sources(tmp_path, [20])
    state = Run(of).train(1).loader.state_dict()
    with pytest.warns(UserWarning, match="buffer_bytes 800 -> 900"):
        Run(of, buffer_bytes=900).resume(state, 1)


def test_one_warning_and_the_count_for_what_cannot_be_used(tmp_path):
    samples = [(f"{i}", {"png": picture(i), "txt": str(i)}) for i in range(4)]
    samples += [("b", {"png": b"\x89PNG broken", "txt": "1"}), ("c", {"png": picture(1)}), ("d", {"txt": "1"})]
    samples += [("e", {"png": picture(1, (16, 7)), "txt": "1"})] * 2
    of = [Source("s", (str(write_tar(tmp_path / "a.tar", samples)), str(tmp_path / "gone.tar")))]
    run = Run(of, batch_size=4, decoder=Decoder(8, captions=CAPTIONS, min_side=8), buffer_bytes=10**6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.train(3)
    assert [sorted(batch) for batch in run.seen] == [[0, 1, 2, 3]] * 3
    reasons = dict(zip(SkipCounts.REASONS, run.loader.skipped.tolist(), strict=True))
    assert {reason for reason, n in reasons.items() if n} == {
        *("corrupt image", "no caption", "no image", "small image", "unreadable shard", "repeated file"),
    }
    assert 2 <= reasons["corrupt image"] == reasons["no caption"] <= 3
    told = [str(w.message) for w in caught if "skipped, " in str(w.message)]
    assert len(told) == 6
    assert any("small image: e in " in message and "16 x 7 pixels, fewer than 8" in message for message in told)


def test_counts_go_on_with_the_run_and_stay_the_sum_of_all_processes(tmp_path):
    samples = [("a", {"png": picture(1), "txt": "1"}), ("b", {"png": picture(2)})]
    of = [Source("s", (str(write_tar(tmp_path / "a.tar", samples)),))]
    with pytest.warns(UserWarning, match="no caption"):
        stopped = Run(of, batch_size=1).train(4)
    state = stopped.loader.state_dict()
    counted = stopped.loader.skipped.sum()
    assert counted >= 3
    resumed = [Run(of, batch_size=1, rank=rank, world_size=2).loader for rank in (0, 1)]
    for loader in resumed:
        with pytest.warns(UserWarning, match="processes 1 -> 2"):
            loader.load_state_dict(state)
    assert [loader.skipped.sum() for loader in resumed] == [counted, 0]


def test_after_another_kind_of_data_reading_starts_at_the_beginning(tmp_path):
    of = sources(tmp_path, [4, 4])
    shapes = ShapesData(batch_size=2, length=8).train_dataloader()
    stopped = Run(of).train(3)
    with pytest.warns(UserWarning, match="another kind of data: this one is read from its beginning"):
        resumed = Run(of).resume(shapes.state_dict(), 2)
    assert resumed.train(3).seen == stopped.seen
    order = shapes.sampler
    expected, order.batches = list(order), lambda: 3
    assert list(order) != expected
    with pytest.warns(UserWarning, match="another kind of data"):
        shapes.load_state_dict(stopped.loader.state_dict())
    assert list(order) == expected


def test_batches_hold_tensors_and_captions_only(tmp_path):
    (batch,) = islice(Run(sources(tmp_path, [4]), decoder=Decoder(8, num_classes=7, captions=CAPTIONS)).loader, 1)
    assert {name: type(value) for name, value in batch.items()} == {
        "image": torch.Tensor,
        "label": torch.Tensor,
        "caption": list,
    }
    assert batch["image"].shape == (2, 3, 8, 8)
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.uint8, torch.int64)
    assert batch["image"].amax(dim=(1, 2, 3)).tolist() == [int(caption) for caption in batch["caption"]]
    assert batch["label"].tolist() == [int(caption) % 7 for caption in batch["caption"]]


def test_an_item_does_not_depend_on_who_reads_it(tmp_path):
    captions = Captions(prefix_probability=0.5)
    of = sources(tmp_path, [10, 10])
    decoder = Decoder(8, 3, captions=captions, flip=True)

    def items(readers):
        options = {"batch_size": 1, "world_size": readers, "buffer_bytes": 10**6, "decoder": decoder}
        streams = [stream(of, rank=rank, **options) for rank in range(readers)]
        return sorted(batch["caption"][0] for each in streams for batch in islice(each, 20 // readers))

    assert items(1) == items(2) == items(4)
    assert len({caption.rpartition(" ")[0] for caption in items(1)}) > 2
