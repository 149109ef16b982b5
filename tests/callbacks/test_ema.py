import math

import pytest
import torch
from lightning.pytorch import Callback

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA, power_function_gamma
from tiny_run import TinyData, TinyModule, tiny_trainer


def weights(module):
    return {key: value.detach().clone() for key, value in module.denoiser.named_parameters()}


class Record(Callback):
    """Raw weights after every optimizer step."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, pl_module):
        self.seen.append(weights(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step >= len(self.seen):
            self.seen.append(weights(pl_module))


def fit(folder, ema, *others, module=None, ckpt_path=None, **options):
    module = TinyModule() if module is None else module
    trainer = tiny_trainer(folder, [ema, *others], **options)
    torch.manual_seed(1)
    trainer.fit(module, TinyData(), ckpt_path=ckpt_path)
    return module


def averages(ema):
    return ema.state_dict()["averages"]


def test_gamma_of_edm2_widths():
    assert power_function_gamma(0.10) == pytest.approx(6.937, abs=5e-3)
    assert power_function_gamma(0.05) == pytest.approx(16.972, abs=5e-3)
    for width in (0.05, 0.10, 0.2):
        gamma = power_function_gamma(width)
        # the relative width of the profile t**gamma, EDM2's definition
        assert math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)) == pytest.approx(width)


def test_names():
    assert EMA([0.9999, 0.999], widths=[0.1, 0.075]).names == ["0.9999", "0.999", "width0.10", "width0.075"]


@pytest.mark.parametrize("arguments", [{"decays": [1.0]}, {"widths": [0.3]}, {"decays": []}, {"every_n_steps": 0}])
def test_refuses(arguments):
    with pytest.raises(ValueError, match=r"give a (list|whole number)|nothing to average"):
        EMA(**arguments)


def test_constant_decay_equals_closed_form(tmp_path):
    ema, record = EMA([0.9, 0.5]), Record()
    fit(tmp_path, ema, record)
    assert len(record.seen) == 7
    for decay, shadow in zip((0.9, 0.5), averages(ema).values(), strict=True):
        for key, value in shadow.items():
            expected = decay**6 * record.seen[0][key]
            for step in range(1, 7):
                expected = expected + (1 - decay) * decay ** (6 - step) * record.seen[step][key]
            torch.testing.assert_close(value, expected)


def test_power_function_equals_closed_form(tmp_path):
    ema, record = EMA([], widths=[0.1]), Record()
    fit(tmp_path, ema, record)
    gamma = power_function_gamma(0.1)
    # telescoped: step t weighs (t/T)^(g+1) - ((t-1)/T)^(g+1)
    for key, value in averages(ema)["width0.10"].items():
        expected = sum(
            ((t / 6) ** (gamma + 1) - ((t - 1) / 6) ** (gamma + 1)) * record.seen[t][key] for t in range(1, 7)
        )
        torch.testing.assert_close(value, expected)


def test_warmup_limits_the_decay():
    ema = EMA([0.9999], warmup=True)
    assert ema.beta("0.9999", 1) == pytest.approx(2 / 11)
    assert ema.beta("0.9999", 100) == pytest.approx(101 / 110)
    assert ema.beta("0.9999", 10**6) == 0.9999
    assert EMA([0.9]).beta("0.9", 1, dt=3) == pytest.approx(0.9**3)


def test_every_n_steps_counts_all_steps(tmp_path):
    ema, record = EMA([0.9], every_n_steps=3), Record()
    fit(tmp_path, ema, record)
    for key, value in averages(ema)["0.9"].items():
        expected = torch.lerp(record.seen[0][key], record.seen[3][key], 1 - 0.9**3)
        expected = torch.lerp(expected, record.seen[6][key], 1 - 0.9**3)
        torch.testing.assert_close(value, expected)


def test_accumulated_batches_are_one_step(tmp_path):
    ema, record = EMA([0.5]), Record()
    fit(tmp_path, ema, record, max_steps=2, accumulate_grad_batches=2)
    for key, value in averages(ema)["0.5"].items():
        seen = [record.seen[i][key] for i in range(3)]
        torch.testing.assert_close(value, 0.25 * seen[0] + 0.25 * seen[1] + 0.5 * seen[2])


def test_only_trainable_denoiser_parameters_in_float32(tmp_path):
    ema = EMA([0.9])
    module = TinyModule().bfloat16()
    module.training_step = lambda batch, batch_idx: (
        module.denoiser(batch["image"].bfloat16(), torch.ones(4).bfloat16(), batch["label"]).square().mean()
    )
    module.other = torch.nn.Linear(2, 2)
    module.denoiser.t_embedder.requires_grad_(False)
    expected = [name for name, _ in module.denoiser.named_parameters() if not name.startswith("t_embedder")]
    fit(tmp_path, ema, module=module, max_steps=1)
    shadow = averages(ema)["0.9"]
    assert list(shadow) == expected
    assert all(value.dtype == torch.float32 for value in shadow.values())


def test_average_swaps_in_and_out(tmp_path):
    ema = EMA([0.9, 0.5])
    module = fit(tmp_path, ema)
    raw, shadows = weights(module), averages(ema)
    assert not torch.equal(raw["final_layer.linear.weight"], shadows["0.9"]["final_layer.linear.weight"])
    with ema.average(module):
        assert torch.equal(module.denoiser.final_layer.linear.weight, shadows["0.9"]["final_layer.linear.weight"])
        with ema.average(module, 0.5):
            assert torch.equal(module.denoiser.final_layer.linear.weight, shadows["0.5"]["final_layer.linear.weight"])
            with ema.average(module, "0.5"), ema.average(module, 0.9):
                weight = module.denoiser.final_layer.linear.weight
                assert torch.equal(weight, shadows["0.9"]["final_layer.linear.weight"])
        assert torch.equal(module.denoiser.final_layer.linear.weight, shadows["0.9"]["final_layer.linear.weight"])
        with pytest.raises(RuntimeError, match="swapped"):
            ema.update(module, 7)
    torch.testing.assert_close(weights(module), raw, rtol=0, atol=0)
    with pytest.raises(KeyError), ema.average(module):
        raise KeyError
    torch.testing.assert_close(weights(module), raw, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"no average '0.7'.*'0.9', '0.5'"), ema.average(module, 0.7):
        pass


def test_swapping_in_inference_mode_leaves_trainable_tensors(tmp_path):
    ema = EMA([0.9])
    module = fit(tmp_path, ema)
    with torch.inference_mode(), ema.average(module):
        pass
    assert not any(parameter.is_inference() for parameter in module.parameters())
    module.denoise(next(iter(TinyData().train_dataloader()))).x_hat.sum().backward()


class AtValidation(Callback):
    def __init__(self, error=False):
        self.error = error
        self.seen = []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.seen.append(weights(pl_module))
        if self.error:
            raise KeyError("validation failed")


@pytest.mark.parametrize("evaluate", [True, False])
def test_validation_uses_the_first_average(tmp_path, evaluate):
    ema, look = EMA([0.9], evaluate=evaluate), AtValidation()
    module = fit(tmp_path, ema, look, max_steps=4, limit_val_batches=1)
    expected = averages(ema)["0.9"] if evaluate else weights(module)
    assert torch.equal(look.seen[-1]["final_layer.linear.weight"], expected["final_layer.linear.weight"])


def test_validation_does_not_change_training(tmp_path):
    plain = fit(tmp_path, EMA([0.9]), max_steps=8)
    validated = fit(tmp_path, EMA([0.9]), max_steps=8, limit_val_batches=1)
    assert plain.losses == validated.losses


def test_exception_in_validation_puts_raw_weights_back(tmp_path):
    ema, record = EMA([0.9]), Record()
    module = TinyModule()
    with pytest.raises(KeyError, match="validation failed"):
        fit(tmp_path, ema, record, AtValidation(error=True), module=module, max_steps=4, limit_val_batches=1)
    torch.testing.assert_close(weights(module), record.seen[4], rtol=0, atol=0)


class SaveInValidation(Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(trainer.default_root_dir + "/swapped.ckpt")


def test_checkpoint_saved_while_swapped_holds_raw_weights(tmp_path):
    ema, record = EMA([0.5]), Record()
    fit(tmp_path, ema, record, SaveInValidation(), max_steps=4, limit_val_batches=1)
    saved = torch.load(tmp_path / "swapped.ckpt", weights_only=True)
    for key, value in record.seen[4].items():
        assert torch.equal(saved["state_dict"][f"denoiser.{key}"], value)
    shadow = saved["callbacks"]["EMA"]["averages"]["0.5"]
    assert not torch.equal(shadow["final_layer.linear.weight"], record.seen[4]["final_layer.linear.weight"])


@pytest.mark.parametrize("every_n_steps", [1, 3])
def test_resume_is_bit_equal(tmp_path, every_n_steps):
    def ema():
        return EMA([0.9], widths=[0.1], every_n_steps=every_n_steps)

    whole = ema()
    fit(tmp_path / "whole", whole, max_steps=8)
    fit(tmp_path / "halves", ema(), Checkpoint(every_n_steps=4), max_steps=4)
    resumed = ema()

    fit(
        tmp_path / "halves",
        resumed,
        max_steps=8,
        ckpt_path=tmp_path / "halves/checkpoints/last.ckpt",
    )
    torch.testing.assert_close(averages(resumed), averages(whole), rtol=0, atol=0)


def test_checkpoint_without_averages_starts_from_its_weights(tmp_path):
    module = TinyModule()
    trainer = tiny_trainer(tmp_path, [Checkpoint(every_n_steps=4)], max_steps=4)
    trainer.fit(module, TinyData())
    ema, record = EMA([0.5]), Record()
    record.seen = [None] * 4
    fit(tmp_path, ema, record, max_steps=5, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    expected = 0.5 * record.seen[4]["final_layer.linear.bias"] + 0.5 * record.seen[5]["final_layer.linear.bias"]
    torch.testing.assert_close(averages(ema)["0.5"]["final_layer.linear.bias"], expected)


def test_other_decays_or_networks_are_refused(tmp_path):
    ema = EMA([0.9])
    fit(tmp_path, ema, max_steps=1)
    with pytest.raises(ValueError, match=r"\['0.9'\], not \['0.99'\]"):
        EMA([0.99]).load_state_dict(ema.state_dict())
    other = EMA([0.9])
    state = ema.state_dict()
    state["averages"]["0.9"]["extra"] = torch.zeros(1)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"another network.*extra"):
        fit(tmp_path, other, max_steps=1)


def test_state_does_not_follow_later_steps(tmp_path):
    ema = EMA([0.5])
    module = fit(tmp_path, ema, max_steps=1)
    before = ema.state_dict()
    kept = before["averages"]["0.5"]["final_layer.linear.weight"].clone()
    with torch.no_grad():
        module.denoiser.final_layer.linear.weight.add_(1)
    ema.update(module, 2)
    assert torch.equal(before["averages"]["0.5"]["final_layer.linear.weight"], kept)


def test_a_second_run_starts_over(tmp_path):
    ema, record = EMA([0.5]), Record()
    fit(tmp_path, ema, max_steps=3)
    fit(tmp_path, ema, record, max_steps=1)
    expected = 0.5 * record.seen[0]["final_layer.linear.bias"] + 0.5 * record.seen[1]["final_layer.linear.bias"]
    torch.testing.assert_close(averages(ema)["0.5"]["final_layer.linear.bias"], expected)


def test_averages_made_before_training_are_forgotten(tmp_path):
    ema, record, module = EMA([0.5]), Record(), TinyModule()
    with ema.average(module):
        pass
    with torch.no_grad():
        module.denoiser.final_layer.linear.bias.add_(1)  # as `init_from` would
    fit(tmp_path, ema, record, module=module, max_steps=1)
    expected = 0.5 * record.seen[0]["final_layer.linear.bias"] + 0.5 * record.seen[1]["final_layer.linear.bias"]
    torch.testing.assert_close(averages(ema)["0.5"]["final_layer.linear.bias"], expected)


def test_any_average_is_asked_for_as_for_samples(tmp_path):
    ema = EMA([0.9, 0.5])
    assert [ema.resolve(name) for name in (True, 0.5, "0.5", False, "raw")] == ["0.9", "0.5", "0.5", None, None]
    module = fit(tmp_path, ema)
    raw = module.denoiser.final_layer.linear.bias.clone()
    with ema.average(module), ema.average(module, ema=False):
        assert torch.equal(module.denoiser.final_layer.linear.bias, raw)
