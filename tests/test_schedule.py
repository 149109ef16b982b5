"""Resumed runs are optimized as they are asked for: the moments are the checkpoint's, everything else is not."""

from functools import partial

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, PolynomialLR

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.schedule import Resumption
from tiny_run import TinyData, TinyModule, tiny_trainer

LAST = "checkpoints/last.ckpt"
ADAMW = partial(AdamW, lr=0.01)


def fit(folder, steps, optimizer=ADAMW, resume=False, **options):
    """Train to a step; the optimizer's first group, and the rates of all steps."""
    module = TinyModule(**options)
    module.optimizer = optimizer
    rates = []
    module.on_before_optimizer_step = lambda opt: rates.append(opt.param_groups[0]["lr"])
    trainer = tiny_trainer(folder, [Checkpoint(every_n_steps=3)], steps)
    trainer.fit(module, TinyData(), ckpt_path=folder / LAST if resume else None)
    return trainer.optimizers[0].param_groups[0], rates


def said(caplog):
    return [record.getMessage() for record in caplog.records if "the optimizer changes" in record.getMessage()]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lr": 1e-5}, "lr 0.01 -> 1e-05"),
        ({"lr": 0.01, "betas": (0.5, 0.6)}, "betas (0.9, 0.999) -> (0.5, 0.6)"),
        ({"lr": 0.01, "weight_decay": 0.3, "eps": 1e-4}, "eps 1e-08 -> 0.0001, weight_decay 0.01 -> 0.3"),
        ({"lr": 0.01, "fused": True}, "fused None -> True"),
    ],
)
def test_settings_of_the_optimizer_apply_and_are_said(tmp_path, caplog, settings, expected):
    fit(tmp_path, 3)
    group, rates = fit(tmp_path, 5, partial(AdamW, **settings), resume=True)
    assert rates == [settings["lr"]] * 2
    assert {name: group[name] for name in settings} == settings
    assert said(caplog) == [f"the optimizer changes where the run is resumed, at step 3: {expected}"]
    stored = torch.load(tmp_path / LAST, weights_only=True)["optimizer_states"][0]
    assert stored["param_groups"][0]["lr"] == settings["lr"]
    assert all(state["step"] == 5 for state in stored["state"].values())  # the moments are those of the run


WARM = {"warmup_steps": 4}
DECAY = {"scheduler": partial(PolynomialLR, total_iters=8)}
CYCLE = {"scheduler": partial(OneCycleLR, max_lr=0.1, total_steps=8)}
COSINE = {"scheduler": partial(CosineAnnealingLR, T_max=8)}


@pytest.mark.parametrize("options", [{}, DECAY | WARM, CYCLE])
def test_what_has_not_changed_is_exact_and_not_said(tmp_path, caplog, options):
    _, whole = fit(tmp_path / "whole", 8, **options)
    _, first = fit(tmp_path / "run", 5, **options)
    _, second = fit(tmp_path / "run", 8, resume=True, **options)
    assert first + second == whole
    assert said(caplog) == []
    state = torch.load(tmp_path / "run" / LAST, weights_only=True)["lr_schedulers"]
    assert state == torch.load(tmp_path / "whole" / LAST, weights_only=True)["lr_schedulers"]


@pytest.mark.parametrize(
    ("before", "after"), [({}, DECAY), (DECAY | WARM, {}), (DECAY, DECAY | WARM), (CYCLE, COSINE), (WARM, CYCLE)]
)
def test_another_schedule_stands_where_it_would_if_it_had_been_there_from_the_start(tmp_path, before, after):
    fit(tmp_path / "run", 5, **before)
    _, resumed = fit(tmp_path / "run", 8, resume=True, **after)
    _, whole = fit(tmp_path / "whole", 8, **after)
    assert resumed == whole[5:]


def test_a_schedule_that_has_ended_is_stretched(tmp_path, caplog):
    fit(tmp_path, 4, scheduler=partial(PolynomialLR, total_iters=4))
    _, rates = fit(tmp_path, 6, resume=True, scheduler=partial(PolynomialLR, total_iters=6))
    assert rates == pytest.approx([0.01 * 2 / 6, 0.01 / 6])
    assert said(caplog) == ["the optimizer changes where the run is resumed, at step 4: lr 0 -> 0.003333"]


def test_training_on_at_rate_zero_is_warned_of(tmp_path):
    schedule = partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=4)
    fit(tmp_path, 4, scheduler=schedule)
    with pytest.warns(UserWarning, match=r"the learning rate is 0 at step 4, .*nothing is learned"):
        fit(tmp_path, 6, resume=True, scheduler=schedule)


def test_another_optimizer_is_refused(tmp_path):
    fit(tmp_path, 3)
    with pytest.raises(ValueError, match=r"another optimizer than SGD: it has amsgrad, not dampening; resume with"):
        fit(tmp_path, 5, partial(SGD, lr=0.01), resume=True)


def test_schedules_that_are_not_stepped_each_step_are_restored(tmp_path):
    class Epochs(TinyModule):
        def configure_optimizers(self):
            optimizer = AdamW(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    for steps, path in ((4, None), (6, tmp_path / LAST)):  # four batches an epoch
        trainer = tiny_trainer(tmp_path, [Checkpoint()], steps)
        trainer.fit(Epochs(), TinyData(), ckpt_path=path)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 1


def test_nothing_is_put_back_where_no_checkpoint_was_loaded():
    Resumption().apply(trainer=None)
