import os
import signal
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from torch.distributed.checkpoint.api import CheckpointException

from pixelgen.callbacks import checkpoint, preemption
from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.checkpoint_io import link, write_error
from pixelgen.callbacks.preemption import SIGNALS
from tiny_run import TinyData, TinyModule, tiny_trainer


def fit(folder, checkpoint, *others, ckpt_path=None, **options):
    module = TinyModule()
    trainer = tiny_trainer(folder, [*others, checkpoint], **options)
    trainer.fit(module, TinyData(), ckpt_path=ckpt_path)
    return module


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


class Score(Callback):
    """A value that appears at some steps, as evaluations do."""

    def __init__(self, values):
        self.values = values

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step in self.values:
            trainer.callback_metrics["fid"] = torch.tensor(self.values[trainer.global_step])


def test_names_and_retention(tmp_path):
    fit(tmp_path, Checkpoint(every_n_steps=2, keep_last=2), max_steps=7)
    assert names(tmp_path) == ["last.ckpt", "step_0000006.ckpt", "step_0000007.ckpt"]
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 7
    assert os.path.samefile(tmp_path / "checkpoints/last.ckpt", tmp_path / "checkpoints/step_0000007.ckpt")


@pytest.mark.parametrize("stops", [(4,), (4, 5), (3, 4, 6), (8,)])
@pytest.mark.parametrize("limit", [{"max_steps": -1, "max_epochs": 3}, {"max_steps": 12}])
def test_epochs_are_counted_exactly_however_often_a_run_stops(tmp_path, stops, limit):
    """Four batches an epoch; each stop is at a checkpoint, and the trainer does not know that it will come."""
    batches, last = [], None

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            batches.append((trainer.current_epoch, batch_idx))

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == self.step:
                raise InterruptedError

    for step in [*stops, None]:
        stop = Stop()
        stop.step = step
        trainer = tiny_trainer(tmp_path, [stop, Checkpoint(every_n_steps=1)], **limit)
        with pytest.raises(InterruptedError) if step else nullcontext():
            trainer.fit(TinyModule(), TinyData(), ckpt_path=last)
        last = tmp_path / "checkpoints/last.ckpt"
    assert step_of(last) == 12
    assert trainer.current_epoch == 3
    assert batches == [(epoch, batch) for epoch in range(3) for batch in range(4)]


def test_keep_all(tmp_path):
    fit(tmp_path, Checkpoint(every_n_steps=2, keep_last=None), max_steps=6)
    assert names(tmp_path) == ["last.ckpt"] + [f"step_000000{i}.ckpt" for i in (2, 4, 6)]


def test_accumulating_batches_save_once(tmp_path, monkeypatch):
    saved = []
    original = checkpoint.write_checkpoint
    monkeypatch.setattr(checkpoint, "write_checkpoint", lambda *args: saved.append(args[1].name) or original(*args))
    fit(tmp_path, Checkpoint(every_n_steps=1), max_steps=3, accumulate_grad_batches=2)
    assert saved == [f"step_000000{i}.ckpt" for i in (1, 2, 3)]


@pytest.mark.parametrize("stop", [4, 5])  # on and off the boundary of an epoch
@pytest.mark.parametrize("every_n_steps", [1, 100])
def test_resume_is_bit_equal(tmp_path, stop, every_n_steps):
    whole = fit(tmp_path / "whole", Checkpoint(every_n_steps=100), max_steps=9)
    first = fit(tmp_path / "halves", Checkpoint(every_n_steps=every_n_steps), max_steps=stop)
    last = tmp_path / "halves/checkpoints/last.ckpt"
    second = fit(tmp_path / "halves", Checkpoint(every_n_steps=every_n_steps), ckpt_path=last, max_steps=9)
    assert len(first.losses + second.losses) == 9
    if stop == 4:  # in mid-epoch the order of samples is the data module's concern
        assert first.losses + second.losses == whole.losses


def test_last_batch_of_the_last_epoch_is_saved_exactly(tmp_path):
    whole = fit(tmp_path / "whole", Checkpoint(), max_steps=8)
    first = fit(tmp_path / "halves", Checkpoint(), max_steps=-1, max_epochs=1)
    last = tmp_path / "halves/checkpoints/last.ckpt"
    second = fit(tmp_path / "halves", Checkpoint(), ckpt_path=last, max_steps=8)
    assert first.losses + second.losses == whole.losses


@pytest.mark.parametrize("ckpt_path", ["last", None])
def test_a_run_is_resumed_by_its_path_and_never_written_over(tmp_path, ckpt_path):
    fit(tmp_path, Checkpoint(every_n_steps=2), max_steps=4, ckpt_path=ckpt_path)
    with pytest.raises(ValueError, match=r"checkpoints of another run: resume it with fit\(ckpt_path='.*last.ckpt'\)"):
        fit(tmp_path, Checkpoint(every_n_steps=2), max_steps=6, ckpt_path=ckpt_path)
    last = tmp_path / "checkpoints/last.ckpt"
    module = fit(tmp_path, Checkpoint(every_n_steps=2), max_steps=6, ckpt_path=last)
    assert len(module.losses) == 2
    assert names(tmp_path) == ["last.ckpt", "step_0000004.ckpt", "step_0000006.ckpt"]
    assert step_of(last) == 6


def test_lightning_knows_it_as_the_checkpoint_callback(tmp_path):
    checkpoint = Checkpoint(monitor="fid")
    trainer = tiny_trainer(tmp_path, [Score({2: 1.0}), checkpoint], max_steps=2, limit_val_batches=1)
    assert trainer.checkpoint_callbacks == [checkpoint]
    trainer.fit(TinyModule(), TinyData())
    module = TinyModule()
    trainer.validate(module, TinyData().val_dataloader(), ckpt_path="best", verbose=False)
    best = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert torch.equal(
        module.denoiser.final_layer.linear.weight, best["state_dict"]["denoiser.final_layer.linear.weight"]
    )
    with pytest.raises(MisconfigurationException, match="enable_checkpointing=False"):
        tiny_trainer(tmp_path, [Checkpoint()], enable_checkpointing=False)


@pytest.mark.parametrize(("mode", "expected"), [("min", 3), ("max", 2)])
def test_best(tmp_path, mode, expected):
    score = Score({2: 5.0, 3: 4.0, 5: float("nan"), 6: 4.5})
    checkpoint = Checkpoint(every_n_steps=4, keep_last=1, monitor="fid", mode=mode)
    fit(tmp_path, checkpoint, score, max_steps=6)
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", "step_0000006.ckpt"]
    assert step_of(tmp_path / "checkpoints/best.ckpt") == expected
    assert checkpoint.best_model_score == score.values[expected]
    assert (
        torch.load(checkpoint.best_model_path, weights_only=True)["callbacks"]["Checkpoint"]["best"]
        == (score.values[expected])
    )
    assert checkpoint.best_model_path == str(tmp_path / "checkpoints/best.ckpt")


def test_best_of_a_saved_step_is_a_link(tmp_path):
    fit(tmp_path, Checkpoint(every_n_steps=2, monitor="fid"), Score({2: 1.0}), max_steps=4)
    best, numbered = (tmp_path / "checkpoints" / name for name in ("best.ckpt", "step_0000002.ckpt"))
    assert os.path.samefile(best, numbered)


def test_the_best_one_in_shards_is_kept(tmp_path):
    checkpoint, trainer = Checkpoint(keep_last=1), tiny_trainer(tmp_path, [])
    checkpoint.folder = tmp_path
    for step in (1, 2, 3):
        (tmp_path / f"step_000000{step}.ckpt").mkdir()
    link(tmp_path / "step_0000001.ckpt", tmp_path / "best.ckpt")
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 3
    checkpoint._drop_old(trainer)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_0000001.ckpt", "step_0000003.ckpt"]


def test_resumed_run_remembers_the_best(tmp_path):
    fit(tmp_path, Checkpoint(every_n_steps=4, monitor="fid"), Score({2: 1.0}), max_steps=4)
    resumed = Checkpoint(every_n_steps=4, monitor="fid")
    fit(tmp_path, resumed, Score({5: 2.0}), max_steps=6, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert step_of(tmp_path / "checkpoints/best.ckpt") == 2
    assert resumed.best_model_score == 1.0


def test_value_of_a_validation_is_watched(tmp_path):
    checkpoint = Checkpoint(every_n_steps=100, monitor="val/flow_matching")
    fit(tmp_path, checkpoint, max_steps=4, limit_val_batches=1)
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", "step_0000004.ckpt"]


def test_a_name_that_nothing_is_logged_as_is_told(tmp_path):
    with pytest.warns(
        UserWarning,
        match=r"there is no best.ckpt: no fdi was logged, only fid, gate/passed, loss, loss/flow_matching; set",
    ):
        fit(tmp_path, Checkpoint(monitor="fdi"), Score({2: 1.0}), max_steps=3)


def test_full_disk_keeps_the_former_checkpoint(tmp_path, monkeypatch):
    from lightning.pytorch import Trainer

    original = Trainer.save_checkpoint

    def full(self, path, *args, **kwargs):
        original(self, path, *args, **kwargs)
        if self.global_step == 4:
            os.truncate(path, 10)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with pytest.raises(OSError, match=r"could not write .*step_0000004.ckpt.*No space left.*last.ckpt"):
        fit(tmp_path, Checkpoint(every_n_steps=2), max_steps=6)
    assert names(tmp_path) == ["last.ckpt", "step_0000002.ckpt"]
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 2


def test_nothing_goes_by_way_of_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    fit(tmp_path, Checkpoint(), max_steps=1)
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 1


def test_errors_of_the_file_system_are_found_behind_those_of_torch():
    full, other = OSError(28, "No space left on device"), RuntimeError("nan")
    with pytest.raises((OSError, RuntimeError)) as caught, Path("/dev/full").open("wb") as file:
        torch.save(torch.zeros(100_000), file)
    assert "No space left" in str(write_error(caught.value))
    assert write_error(CheckpointException("save", {0: (other, None), 1: (full, None)})) is full
    assert write_error(CheckpointException("save", {0: (other, None)})) is None
    assert write_error(other) is None


def test_last_is_a_copy_where_links_are_impossible(tmp_path, monkeypatch):
    def no_links(*args):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    fit(tmp_path, Checkpoint(every_n_steps=2), max_steps=4)
    assert names(tmp_path) == ["last.ckpt", "step_0000002.ckpt", "step_0000004.ckpt"]
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 4


@pytest.fixture
def handlers():
    """What a terminal's programs have for each signal; pytest may itself run where some are ignored."""
    former = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in former.items():
        signal.signal(number, handler)


class Signals(Callback):
    """Sends itself signals in a step."""

    def __init__(self, *numbers, step=2):
        self.numbers, self.step = numbers, step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("numbers", "status"),
    [([signal.SIGTERM], 0), ([signal.SIGHUP], 0), ([signal.SIGINT], 130), ([signal.SIGINT, signal.SIGINT], 130)],
)
def test_whatever_asks_to_stop_saves_the_present_step(tmp_path, handlers, numbers, status):
    """A launcher may hand on the Ctrl-C that the terminal has sent already: two at once are one."""
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, Signals(*numbers), Checkpoint(every_n_steps=100))
    assert stop.value.code == status
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 3
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_a_second_ctrl_c_ends_training_at_once(tmp_path, handlers, monkeypatch):
    monkeypatch.setattr(preemption, "SAME", -1.0)
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, Signals(signal.SIGINT, signal.SIGINT), Checkpoint(every_n_steps=100))
    assert stop.value.code == 1
    assert not (tmp_path / "checkpoints").exists()


def test_handlers_are_put_back_however_training_ends(tmp_path, handlers):
    fit(tmp_path / "whole", Checkpoint(), max_steps=1)
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers
    with pytest.raises(ValueError, match="checkpoints of another run"):
        fit(tmp_path / "whole", Checkpoint(), max_steps=1)
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_what_is_ignored_stays_ignored(tmp_path, handlers):
    """As `nohup` does it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fit(tmp_path, Signals(signal.SIGHUP), Checkpoint(), max_steps=4)
    assert step_of(tmp_path / "checkpoints/last.ckpt") == 4


def test_the_best_one_by_another_measure_is_forgotten():
    checkpoint = Checkpoint(monitor="fid", mode="max")
    checkpoint.load_state_dict({"best": 3.0, "seen": 3.0, "monitor": "fid", "mode": "min"})
    assert checkpoint.best_model_score is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_last": 0}, "Checkpoint.keep_last is 0: give a whole number of at least 1 or null"),
        ({"every_n_steps": 0}, "every_n_steps is 0: give a whole number of at least 1"),
        ({"mode": "best"}, "mode is 'best': give min or max"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Checkpoint(**arguments)
