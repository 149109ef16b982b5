import random

import numpy as np
import pytest
import torch

from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.periodic import Schedule, find_ema, interlude
from tiny_run import TinyData, TinyModule, tiny_trainer


@pytest.mark.parametrize("error", [False, True])
def test_everything_is_put_back(tmp_path, error):
    module, ema = TinyModule(), EMA([0.9])
    trainer = tiny_trainer(tmp_path, [ema])
    trainer.fit(module, TinyData())
    module.train()
    module.denoiser.mix.eval()
    raw = module.denoiser.mix.weight.detach().clone()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    try:
        with interlude(trainer, module):
            assert not torch.is_grad_enabled()
            assert not module.training
            assert not torch.equal(module.denoiser.mix.weight, raw)
            torch.rand(9), np.random.rand(9), random.random()
            if error:
                raise KeyError
    except KeyError:
        assert error
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert torch.is_grad_enabled()
    assert torch.equal(module.denoiser.mix.weight, raw)
    assert module.training
    assert module.denoiser.classes.training
    assert not module.denoiser.mix.training


def test_without_averages(tmp_path):
    trainer = tiny_trainer(tmp_path, [])
    module = TinyModule()
    assert find_ema(trainer) is None
    raw = module.denoiser.mix.weight.detach().clone()
    with interlude(trainer, module):
        assert torch.equal(module.denoiser.mix.weight, raw)


def test_compiled_blocks_run_uncompiled_if_asked(tmp_path):
    module, trainer = TinyModule(), tiny_trainer(tmp_path, [])
    calls = []

    def backend(graph, inputs):
        calls.append(1)
        return graph.forward

    module.denoiser.mix.compile(backend=backend)
    with interlude(trainer, module, eager=True):
        module.denoiser(torch.zeros(1, 3, 8, 8))
    assert not calls
    with interlude(trainer, module):
        module.denoiser(torch.zeros(1, 3, 8, 8))
    assert calls


def test_schedule():
    schedule = Schedule(3, at_start=True, at_end=True)
    due = [schedule.start(0)] + [schedule.step(step) for step in (0, 1, 2, 3, 3, 4, 5, 6, 7)] + [schedule.end(7)]
    assert due == [True, False, False, False, True, False, False, False, True, False, True]
    assert not schedule.end(7)


def test_schedule_of_a_resumed_run():
    schedule = Schedule(3, at_start=True, at_end=True)
    assert not schedule.start(3)
    assert not schedule.step(3)
    assert schedule.step(6)
    assert not schedule.end(6)


def test_schedule_refuses():
    with pytest.raises(ValueError, match="at least 1, got 0: use null"):
        Schedule(0, at_start=False, at_end=True)
