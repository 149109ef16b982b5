import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

from pixelgen import PixelGen
from pixelgen.flow import Euler, draw_noise
from pixelgen.losses import Objective
from pixelgen.models import JiT


def tiny(num_classes=3, **options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "depth": 2, "num_heads": 2, "bottleneck_dim": None, "in_context_start": 1}
    denoiser = JiT(input_size=8, patch_size=4, num_classes=num_classes, **sizes)
    return PixelGen(denoiser, sampler=Euler(num_steps=3), **options)


class Recorder(PixelGen):
    """Keeps what the hooks hand on; the hooks named in the documentation are those overridden here."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def draw_times(self, batch_size):
        return torch.full((batch_size,), 0.5)

    def corrupt(self, x, noise, t):
        return x * 0

    def predict(self, x_t, t, condition):
        self.seen.append((x_t.clone(), t.clone(), condition))
        return super().predict(x_t, t, condition)

    def combine(self, terms):
        return 2 * terms.sum(*terms.values)


def batches(count, labels=True):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4 * count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    items = [{"image": image, **({"label": i % 3} if labels else {})} for i, image in enumerate(images)]
    return DataLoader(items, batch_size=4)


def train(model, steps, labels=True, **options):
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(model, batches(steps, labels))
    return trainer


def test_hooks_are_what_a_step_consists_of():
    model = Recorder(tiny().denoiser, condition_dropout=1.0)
    trainer = train(model, 1)
    x_t, t, condition = model.seen[0]
    assert float(x_t.abs().max()) == 0
    assert t.tolist() == [0.5] * 4
    assert condition.tolist() == [3] * 4
    logged = trainer.callback_metrics
    assert torch.allclose(logged["loss"], 2 * logged["loss/flow_matching"])
    assert logged["gate/passed"] == 1


def test_random_numbers_of_a_step_depend_on_seed_and_step_only():
    def draws(seed, disturb):
        class Draws(PixelGen):
            def draw_times(self, batch_size):
                self.times = [*getattr(self, "times", []), super().draw_times(batch_size)]
                return self.times[-1]

        model = Draws(tiny().denoiser, seed=seed)
        torch.manual_seed(disturb)
        train(model, 3)
        return torch.stack(model.times)

    assert torch.equal(draws(1, 0), draws(1, 99))
    assert not torch.equal(draws(1, 0), draws(2, 0))
    assert len(draws(1, 0).unique()) == 12


def test_published_optimizer():
    optimizer = tiny().configure_optimizers()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 0.0)


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_warm_up_multiplies_whatever_the_scheduler_says(warmup_steps):
    rates = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    def decay(optimizer):
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=10)

    train(
        PixelGen(tiny().denoiser, optimizer=lambda p: Recording(p, lr=1.0), scheduler=decay, warmup_steps=warmup_steps),
        12,
    )
    decayed = [max(0.0, 1 - step / 10) for step in range(12)]
    ramp = [min(1.0, (step + 1) / max(1, warmup_steps)) for step in range(12)]
    assert rates == pytest.approx([a * b for a, b in zip(decayed, ramp, strict=True)])


def test_fixed_positions_are_not_optimised():
    model = tiny()
    optimised = {id(p) for group in model.configure_optimizers().param_groups for p in group["params"]}
    assert id(model.denoiser.pos_embed) not in optimised
    assert len(optimised) == sum(p.requires_grad for p in model.parameters())


def test_unconditional_training_and_sampling():
    model = tiny(num_classes=None)
    train(model, 1, labels=False)
    assert model.sample(seeds=[0, 1]).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="unconditional"):
        model.sample([0])


def test_an_untrained_network_moves_noise_to_grey():
    """It predicts x_hat = 0, so the last Euler step, from t = 2/3 to 1, lands on 0."""
    assert torch.allclose(tiny().sample([0, 1]), torch.zeros(2, 3, 8, 8), atol=1e-6)


def test_sampling_leaves_mode_and_other_generators_alone():
    model = tiny().train()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model.sample([0])
    assert torch.equal(torch.rand(1), expected)
    assert model.denoiser.training


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_samples_in_the_precision_of_training(precision, monkeypatch):
    model, mixed = tiny(), []

    class Samples(Callback):
        def on_train_end(self, trainer, pl_module):
            pl_module.sample([0])

    def sampler(predict, noise, *_):
        mixed.append(torch.is_autocast_enabled("cpu"))
        return noise

    monkeypatch.setattr(model, "sampler", sampler)
    train(model, 1, precision=precision, callbacks=[Samples()])
    assert mixed == [precision == "bf16-mixed"]


def test_progress_and_sizes():
    model, made = tiny(), []
    images = model.sample([0, 1, 2, 0, 1], batch_size=2, size=(8, 16), progress=made.append)
    assert images.shape == (5, 3, 8, 16)
    assert made == [2, 4, 5]


@pytest.mark.parametrize(
    ("condition", "seeds", "message"),
    [
        (None, 0, "give the class of each image, 0 to 2"),
        ([5], 0, "between 0 and 2"),
        ([-1], 0, "between 0 and 2"),
        ([0, 1], [0], "2 conditions but 1 seeds"),
        (["red circle"], 0, "class numbers, 0 to 2"),
    ],
)
def test_wrong_requests_are_refused(condition, seeds, message):
    with pytest.raises(ValueError, match=message):
        tiny().sample(condition, seeds)


def test_nonsense_dropout_is_refused():
    with pytest.raises(ValueError, match="share between 0 and 1"):
        tiny(condition_dropout=1.5)


def test_noise_scale_reaches_training_and_sampling(monkeypatch):
    model = tiny(noise_scale=3.0)
    monkeypatch.setattr(model, "sampler", lambda predict, noise, *_: noise)
    assert torch.equal(model.sample([0], seeds=5), draw_noise([5], (3, 8, 8), scale=3.0))
    noise = model.draw_noise(torch.zeros(64, 3, 8, 8), range(64))
    assert float(noise.std()) == pytest.approx(3, rel=0.05)


def test_validation_is_the_same_each_time():
    model = tiny().eval()
    objective = Objective()
    model.objective = objective
    (batch,) = batches(1)
    losses = []
    model.log_dict = lambda values, **_: losses.append(float(values["val/flow_matching"]))
    for _ in range(2):
        torch.rand(3)
        model.validation_step(batch, 0)
    assert losses[0] == losses[1]
