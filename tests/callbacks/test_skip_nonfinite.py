from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision

from pixelgen.callbacks.skip_nonfinite import SkipNonFinite, gradient_scale
from tiny_run import TinyData, TinyModule, tiny_trainer


class Poisoned(TinyModule):
    """The loss, or the gradient alone, is not finite in the chosen batches."""

    def __init__(self, loss=(), gradient=(), fused=True):
        super().__init__()
        self.bad_loss, self.bad_gradient, self.fused = set(loss), set(gradient), fused
        self.batch = 0
        self.weights = [self.denoiser.final_layer.linear.weight.detach().clone()]
        self.moments = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.batch += 1
        if self.batch in self.bad_loss:
            return loss * float("nan")
        if self.batch in self.bad_gradient:
            zero = (self.denoiser.final_layer.linear.bias * 0).sum()
            return loss + zero.sqrt()  # finite, but with an infinite slope
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=0.1, fused=self.fused)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.weights.append(self.denoiser.final_layer.linear.weight.detach().clone())
        state = self.optimizers().optimizer.state.get(self.denoiser.final_layer.linear.weight, {})
        self.moments.append(state["exp_avg"].clone() if state else None)


def fit(folder, module, guard, **options):
    trainer = tiny_trainer(folder, [guard], **options)
    trainer.fit(module, TinyData())
    return trainer


def changed(module):
    return [not torch.equal(a, b) for a, b in zip(module.weights, module.weights[1:], strict=False)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_skips_exactly_the_bad_step(tmp_path, kind, fused):
    module, guard = Poisoned(**{kind: [3]}, fused=fused), SkipNonFinite()
    with pytest.warns(UserWarning, match="1 of the steps up to 3 were skipped"):
        fit(tmp_path, module, guard)
    assert changed(module) == [True, True, False, True, True, True]
    assert torch.equal(module.moments[1], module.moments[2])
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert guard.skipped == 1


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_is_not_counted_by_the_optimizer(tmp_path, fused):
    module = Poisoned(loss=[2], fused=fused)
    with pytest.warns(UserWarning, match="were skipped"):
        trainer = fit(tmp_path, module, SkipNonFinite(), log_every_n_steps=4)
    assert trainer.optimizers[0].state[module.denoiser.final_layer.linear.weight]["step"] == 5


def test_any_accumulated_batch_counts(tmp_path):
    module, guard = Poisoned(loss=[3]), SkipNonFinite()
    with pytest.warns(UserWarning, match="up to 2"):
        fit(tmp_path, module, guard, accumulate_grad_batches=2, max_steps=3)
    assert changed(module) == [False, True, False, False, False, True]


def test_clipping_after_a_skip(tmp_path):
    module, guard = Poisoned(gradient=[1]), SkipNonFinite()
    with pytest.warns(UserWarning, match="not finite"):
        fit(tmp_path, module, guard, gradient_clip_val=1.0)
    assert changed(module) == [False, True, True, True, True, True]


def test_stops_after_patience(tmp_path):
    module = Poisoned(loss=[2, 4, 5, 6])
    message = r"the gradient was not finite in 3 steps in a row, up to step 6.*lower learning rate"
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(RuntimeError, match=message):
        fit(tmp_path, module, SkipNonFinite(patience=3), max_steps=8)
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_logs_the_norm_before_clipping(tmp_path):
    class Norm(TinyModule):
        def on_after_backward(self):
            self.norm = torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]).norm()

    module, guard = Norm(), SkipNonFinite()
    trainer = fit(tmp_path, module, guard, max_steps=1, gradient_clip_val=1e-3, logger=CSVLogger(tmp_path, "", ""))
    assert trainer.callback_metrics["grad_norm"].item() == pytest.approx(module.norm.item(), rel=1e-5)
    assert trainer.callback_metrics["skipped_steps"] == 0
    assert "grad_norm" in (tmp_path / "metrics.csv").read_text()


def test_training_without_accidents_is_unchanged(tmp_path):
    plain, guarded = TinyModule(), TinyModule()
    fit(tmp_path, guarded, SkipNonFinite())
    tiny_trainer(tmp_path, []).fit(plain, TinyData())
    assert plain.losses == guarded.losses


@pytest.mark.parametrize(("fused", "expected"), [(True, 1024.0), (False, 1.0)])
def test_gradients_that_are_still_scaled(fused, expected):
    """Under 16-mixed precision fused optimizers unscale in their step, for others the plugin has done it before."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))  # makes the scale
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], fused=fused)
    for plugin, scale in ((SimpleNamespace(scaler=scaler), expected), (SimpleNamespace(scaler=None), 1.0)):
        assert gradient_scale(SimpleNamespace(precision_plugin=plugin), optimizer) == scale


@pytest.mark.parametrize("fused", [True, False])
def test_the_norm_in_half_precision_is_that_of_the_gradients(tmp_path, fused):
    norms = []
    for plugin in (None, MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))):
        options = {} if plugin is None else {"plugins": [plugin]}
        trainer = fit(tmp_path, TinyModule(fused=fused), SkipNonFinite(), max_steps=1, **options)
        norms.append(trainer.callback_metrics["grad_norm"].item())
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_state():
    guard, other = SkipNonFinite(), SkipNonFinite()
    guard._counts = torch.tensor([5.0, 2.0])
    other.load_state_dict(guard.state_dict())
    assert other.state_dict() == {"skipped": 5, "in_a_row": 2}
    assert other.skipped == 5
