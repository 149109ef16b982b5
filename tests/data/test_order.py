"""The order of samples: a function of (seed, batches consumed), whatever happens to the run."""

import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import Dataset

from pixelgen.data.images import ImageData
from pixelgen.data.order import ResumableOrder

SAMPLES, BATCH, EPOCHS = 23, 3, 3  # 7 batches an epoch; the two samples over come first in the next


class Keys(Dataset):
    """Each item is its own key."""

    def __len__(self):
        return SAMPLES

    def __getitem__(self, key):
        return {"key": key}


class KeyData(ImageData):
    def train_dataset(self):
        return Keys()

    def val_dataset(self):
        return Keys()


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.keys = nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.keys += batch["key"].tolist()
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class InterruptAt(Callback):
    """Fails in the middle of a batch, after it was fetched, and leaves a checkpoint behind."""

    def __init__(self, batches, path):
        self.batches, self.path = batches, path

    def on_train_batch_start(self, trainer, *_):
        if trainer.fit_loop.epoch_loop.batch_progress.total.started == self.batches:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


def fit(folder, ckpt_path=None, num_workers=0, callbacks=(), **options):
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        callbacks=list(callbacks),
        **{"max_epochs": EPOCHS, **options},
    )
    data = KeyData(image_size=8, batch_size=BATCH, num_workers=num_workers, seed=5)
    try:
        trainer.fit(recorder, datamodule=data, ckpt_path=ckpt_path)
    except InterruptedError:
        recorder.keys = recorder.keys[: trainer.fit_loop.epoch_loop.batch_progress.total.processed * BATCH]
    return recorder.keys


def expected(batches):
    order = ResumableOrder(range(SAMPLES), BATCH, seed=5)
    keys = []
    for epoch in range(batches * BATCH // SAMPLES + 1):
        keys += (order.permutation(epoch) + epoch * SAMPLES).tolist()
    return keys[: batches * BATCH]


def test_an_epoch_is_a_permutation_cut_into_full_batches():
    order = ResumableOrder(range(SAMPLES), BATCH, seed=5)
    keys = list(order)
    assert len(order) == len(keys) == 21
    assert len(set(keys)) == 21
    assert set(keys) < set(range(SAMPLES))
    assert sorted(order.permutation(0).tolist()) == list(range(SAMPLES))


def test_seeds_and_epochs_have_their_own_permutations():
    orders = [ResumableOrder(range(100), 10, seed=seed).permutation(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert ResumableOrder(range(100), 10).permutation(0)[:5].tolist() == orders[0][:5].tolist()


@pytest.mark.parametrize("consumed", [0, 3, 7, 9, 14, 700])
def test_iteration_starts_after_the_consumed_batches(consumed):
    order = ResumableOrder(range(SAMPLES), BATCH, seed=5, batches=lambda: consumed)
    assert list(order) == expected(consumed + 7)[consumed * BATCH :]


def test_global_order_survives_a_change_of_world_size():
    one = torch.tensor(list(ResumableOrder(range(50), 12, batches=lambda: 3))).view(-1, 12)
    for world_size in (2, 3, 4):
        ranks = [
            list(ResumableOrder(range(50), 12 // world_size, 0, world_size, rank, lambda: 3))
            for rank in range(world_size)
        ]
        together = torch.stack([torch.tensor(keys).view(one.shape[0], -1) for keys in ranks], dim=-1).flatten(1)
        assert torch.equal(together, one)


def test_every_sample_is_seen_once_before_any_is_seen_again():
    keys = [list(ResumableOrder(range(SAMPLES), BATCH, seed=5, batches=lambda b=b: b))[:BATCH] for b in range(23)]
    indices = (torch.tensor(keys).flatten() % SAMPLES).view(BATCH, SAMPLES)
    assert torch.equal(indices.sort(dim=1).values, torch.arange(SAMPLES).expand(BATCH, -1))


def test_the_stream_goes_on_with_another_global_batch_size():
    counted = [10]
    former = ResumableOrder(range(50), 6, batches=lambda: counted[0])
    stream = list(ResumableOrder(range(50), 1)) + list(ResumableOrder(range(50), 1, batches=lambda: 50))
    halved = ResumableOrder(range(50), 3, batches=lambda: counted[0])
    halved.load_state_dict(former.state_dict())
    assert halved.consumed() == 60
    assert list(halved)[:9] == stream[60:69]
    counted[0] = 12
    assert halved.consumed() == 66
    again = ResumableOrder(range(50), 4, 0, 2, 0, lambda: counted[0])
    again.load_state_dict(halved.state_dict())
    assert again.consumed() == 66
    assert list(again)[:4] == stream[66:74:2]


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match=r"5 training samples.*global batch of 6 .*lower batch_size"):
        ResumableOrder(range(5), 3, world_size=2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_straight_run_follows_the_order(tmp_path, num_workers):
    assert fit(tmp_path, num_workers=num_workers) == expected(3 * 7)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("steps", [1, 3, 4, 7, 8])
def test_resumed_run_continues_exactly(tmp_path, steps, accumulate):
    """Stopped by max_steps in mid-epoch, or with 7 steps (4 when accumulating) at the epoch's end."""
    save = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=steps)
    options = {"accumulate_grad_batches": accumulate}
    before = fit(tmp_path, callbacks=[save], max_steps=steps, **options)
    after = fit(tmp_path, ckpt_path=tmp_path / "stop.ckpt", **options)
    assert before + after == expected(3 * 7)


@pytest.mark.parametrize("steps", [3, 7])
def test_resumed_run_with_workers_continues_exactly(tmp_path, steps):
    save = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=steps)
    before = fit(tmp_path, num_workers=2, callbacks=[save], max_steps=steps)
    after = fit(tmp_path, num_workers=2, ckpt_path=tmp_path / "stop.ckpt", max_epochs=2)
    assert before + after == expected(2 * 7)


def test_checkpoint_of_the_epoch_end_continues_with_the_next_epoch(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="stop", every_n_epochs=1, save_on_train_epoch_end=True)
    before = fit(tmp_path, callbacks=[save], max_epochs=1)
    assert before + fit(tmp_path, ckpt_path=tmp_path / "stop.ckpt") == expected(3 * 7)


@pytest.mark.parametrize("validations", [1, 2, 3])
def test_checkpoint_after_validation_in_mid_epoch(tmp_path, validations):
    save = ModelCheckpoint(tmp_path, filename="stop", save_on_train_epoch_end=False)
    before = fit(tmp_path, callbacks=[save], val_check_interval=3, max_steps=3 * validations + validations // 3)
    after = fit(tmp_path, ckpt_path=tmp_path / "stop.ckpt", val_check_interval=3)
    assert before + after == expected(3 * 7)


@pytest.mark.parametrize("batches", [3, 7, 10])
def test_batch_that_was_interrupted_is_repeated(tmp_path, batches):
    before = fit(tmp_path, callbacks=[InterruptAt(batches, tmp_path / "stop.ckpt")])
    assert len(before) == batches * BATCH
    assert before + fit(tmp_path, ckpt_path=tmp_path / "stop.ckpt") == expected(3 * 7)


class WriteKeys(Callback):
    def on_train_end(self, trainer, recorder):
        torch.save(recorder.keys, f"{trainer.default_root_dir}/{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("use_distributed_sampler", [True, False])
def test_two_processes_share_the_order(tmp_path, use_distributed_sampler):
    options = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": use_distributed_sampler}
    fit(tmp_path, callbacks=[WriteKeys()], max_epochs=1, **options)
    keys = list(ResumableOrder(range(SAMPLES), 2 * BATCH, seed=5))
    batches = [keys[i : i + 2 * BATCH] for i in range(0, len(keys), 2 * BATCH)]
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == [key for batch in batches for key in batch[rank::2]]


def test_shortened_epochs_still_walk_through_all_samples(tmp_path):
    assert fit(tmp_path, limit_train_batches=4) == expected(3 * 4)


def test_resuming_by_steps_over_epochs(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=9)
    before = fit(tmp_path, callbacks=[save], max_steps=9, max_epochs=-1)
    assert before + fit(tmp_path, ckpt_path=tmp_path / "stop.ckpt", max_steps=20, max_epochs=-1) == expected(20)


def test_resuming_in_mid_epoch_gives_no_warning_but_a_changed_order_does(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=3)
    fit(tmp_path, callbacks=[save], max_steps=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, ckpt_path=tmp_path / "stop.ckpt", max_epochs=1)
    assert not [w for w in caught if "resumable" in str(w.message) or "another order" in str(w.message)]
    loader = KeyData(image_size=8, batch_size=4, seed=6).train_dataloader()
    with pytest.warns(UserWarning, match="seed 5 -> 6"):
        loader.load_state_dict({"seed": 5, "samples": SAMPLES, "global_batch": 3, "before": [0, 0]})
