import random

import numpy as np
import pytest
import torch

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.periodic import Periodic, find_ema, sampling_mode
from tiny_run import TinyData, TinyModule, tiny_trainer


@pytest.mark.parametrize("error", [False, True])
def test_everything_is_put_back(tmp_path, error):
    module, ema = TinyModule(), EMA([0.9])
    trainer = tiny_trainer(tmp_path, [ema])
    trainer.fit(module, TinyData())
    module.train()
    module.denoiser.final_layer.linear.eval()
    raw = module.denoiser.final_layer.linear.weight.detach().clone()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    try:
        with sampling_mode(trainer, module):
            assert not torch.is_grad_enabled()
            assert not module.training
            assert not torch.equal(module.denoiser.final_layer.linear.weight, raw)
            torch.rand(9), np.random.rand(9), random.random()
            if error:
                raise KeyError
    except KeyError:
        assert error
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert torch.is_grad_enabled()
    assert torch.equal(module.denoiser.final_layer.linear.weight, raw)
    assert module.training
    assert module.denoiser.y_embedder.training
    assert not module.denoiser.final_layer.linear.training


def test_without_averages(tmp_path):
    trainer = tiny_trainer(tmp_path, [])
    module = TinyModule()
    assert find_ema(trainer) is None
    raw = module.denoiser.final_layer.linear.weight.detach().clone()
    with sampling_mode(trainer, module):
        assert torch.equal(module.denoiser.final_layer.linear.weight, raw)


def test_compiled_blocks_run_uncompiled_if_asked(tmp_path):
    module, trainer = TinyModule(), tiny_trainer(tmp_path, [])
    calls = []

    def backend(graph, inputs):
        calls.append(1)
        return graph.forward

    module.denoiser.final_layer.linear.compile(backend=backend)
    with sampling_mode(trainer, module, eager=True):
        module.denoiser(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert not calls
    with sampling_mode(trainer, module):
        module.denoiser(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert calls


class Steps(Periodic):
    """Notes the steps at which it runs."""

    def __init__(self, every_n_steps=3, at_start=True):
        super().__init__(every_n_steps, at_start)
        self.steps = []

    def run(self, trainer, pl_module):
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(("max_steps", "expected"), [(7, [0, 3, 6, 7]), (6, [0, 3, 6])])
def test_runs_at_the_start_every_n_steps_and_at_the_end(tmp_path, max_steps, expected):
    steps = Steps()
    tiny_trainer(tmp_path, [steps], max_steps, accumulate_grad_batches=2).fit(TinyModule(), TinyData())
    assert steps.steps == expected


def test_a_resumed_run_does_not_run_twice_at_a_step(tmp_path):
    tiny_trainer(tmp_path, [Checkpoint()], 3).fit(TinyModule(), TinyData())
    steps = Steps()
    trainer = tiny_trainer(tmp_path, [steps], 6)
    trainer.fit(TinyModule(), TinyData(), ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert steps.steps == [6]


class Broken(Steps):
    """Fails at step 3."""

    def run(self, trainer, pl_module):
        super().run(trainer, pl_module)
        if trainer.global_step == 3:
            raise RuntimeError("no picture")


def test_what_fails_costs_a_warning_and_no_training(tmp_path):
    steps, sampled = Broken(), Steps()
    with pytest.warns(UserWarning, match=r"Broken failed at step 3, and training goes on \(RuntimeError: no picture\)"):
        tiny_trainer(tmp_path, [steps, sampled], 7).fit(TinyModule(), TinyData())
    assert steps.steps == sampled.steps == [0, 3, 6, 7]


class Interrupting(Steps):
    def run(self, trainer, pl_module):
        raise KeyboardInterrupt


def test_an_interrupt_is_no_failure(tmp_path):
    with pytest.raises(SystemExit):
        tiny_trainer(tmp_path, [Interrupting()], 2).fit(TinyModule(), TinyData())


def test_refusals():
    with pytest.raises(ValueError, match="every_n_steps is 0: give a whole number of at least 1 or null"):
        Steps(0)
