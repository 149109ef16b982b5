import pytest
import torch
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from torch.utils.data import DataLoader

from pixelgen import PixelGen
from pixelgen.conditioner import Labels
from pixelgen.encoders import PatchEncoder
from pixelgen.flow import Euler, draw_noise
from pixelgen.losses import REPA, AdaptiveWeight, Objective
from pixelgen.models import Denoiser, JiT
from pixelgen.schedule import WarmUp


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


def train(model, steps, labels=True, data=None, ckpt_path=None, **options):
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
    trainer.fit(model, data or batches(steps, labels), ckpt_path=ckpt_path)
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


def test_the_optimizer_is_given_named_parameters():
    named = []

    def groups(parameters):
        named.extend(parameters)
        biases = [p for name, p in named if name.endswith("bias")]
        others = [p for name, p in named if not name.endswith("bias")]
        return torch.optim.AdamW([{"params": biases, "weight_decay": 0.0}, {"params": others}], lr=1e-3)

    model = PixelGen(tiny().denoiser, optimizer=groups)
    train(model, 1)
    assert dict(named).keys() == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_warm_up_multiplies_whatever_the_scheduler_says(warmup_steps):
    rates, seen = [], []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    class Monitor(LearningRateMonitor):
        def on_train_batch_start(self, trainer, *args):
            seen.extend(self._extract_stats(trainer, "step").values())

        def on_train_start(self, trainer, *args):
            self.lrs = {name: [] for name in self._find_names_from_schedulers(trainer.lr_scheduler_configs)[0][0]}

    def decay(optimizer):
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=10)

    model = PixelGen(
        tiny().denoiser, optimizer=lambda p: Recording(p, lr=1.0), scheduler=decay, warmup_steps=warmup_steps
    )
    train(model, 12, callbacks=[Monitor()])
    decayed = [max(0.0, 1 - step / 10) for step in range(12)]
    ramp = [min(1.0, (step + 1) / max(1, warmup_steps)) for step in range(12)]
    assert rates == pytest.approx([a * b for a, b in zip(decayed, ramp, strict=True)])
    assert seen == pytest.approx(rates)


def test_warm_up_alone_and_resumed():
    def schedule():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        return optimizer, WarmUp(torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0), 4)

    (optimizer, warm_up), rates = schedule(), []
    for step in range(6):
        if step == 2:
            state, (optimizer, warm_up) = warm_up.state_dict(), schedule()
            warm_up.load_state_dict(state)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warm_up.step()
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("name", ["denoiser", "sampler", "time", "optimizer"])
def test_what_cannot_be_off_refuses_null(name):
    with pytest.raises(ValueError, match=rf"PixelGen\.{name} is null: give "):
        PixelGen(**({"denoiser": tiny().denoiser} | {name: None}))


def test_precision_of_samples_is_a_choice():
    model = tiny()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.sample([0, 1])
    assert torch.equal(model.sample([0, 1], precision="bf16-mixed"), mixed)
    assert torch.equal(model.sample([0, 1], precision="32-true"), model.sample([0, 1]))
    assert not torch.equal(mixed, model.sample([0, 1]))
    with pytest.raises(ValueError, match="precision is 'bf16': give 32-true or bf16-mixed or 16-mixed or null"):
        model.sample([0], precision="bf16")


def test_a_model_in_bfloat16_samples():
    model = tiny()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    whole = model.sample([0, 1])
    small = model.bfloat16().sample([0, 1])
    assert small.dtype == torch.float32
    assert torch.allclose(small, whole, atol=0.1)


def test_a_model_says_what_it_is():
    text = repr(tiny())
    assert "PixelGen: JiT, 0.0 M parameters, 8 px, 3 classes" in text
    assert "sampler: Euler(num_steps=3, shift=1.0, guidance=1.0" in text
    assert len(text.splitlines()) <= 4


class Modest(Denoiser):
    """Forward alone, with attributes whose names options look for."""

    def __init__(self):
        super().__init__(image_size=8)
        self.blocks = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.SiLU())
        self.last_layer = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x_t, t, condition=None):
        return self.last_layer(self.blocks(x_t))


def test_names_of_a_denoiser_of_ones_own_are_its_own():
    model = PixelGen(Modest(), objective=Objective(adaptive=AdaptiveWeight()), sampler=Euler(num_steps=2))
    train(model, 1, labels=False)
    assert model.sample(seeds=[0]).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="compile_blocks needs more of Modest"):
        PixelGen(Modest(), compile_blocks=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioner": None}, "conditioner is null, but JiT takes one"),
        ({"conditioner": Labels(2)}, "the conditioner has 2 classes, the denoiser 3"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_what_does_not_fit_the_denoiser_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_a_schedule_by_plateaus_is_refused():
    model = tiny(scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(ValueError, match="cannot be ReduceLROnPlateau"):
        model.configure_optimizers()


class Smallest(Denoiser):
    """A denoiser of one's own, with `forward` alone."""

    def __init__(self):
        super().__init__(image_size=8)
        self.mix = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x_t, t, condition=None):
        return self.mix(x_t)


def test_a_denoiser_needs_forward_alone():
    model = PixelGen(Smallest(), sampler=Euler(num_steps=2))
    train(model, 2, labels=False)
    assert model.sample(seeds=[0, 1]).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": dict(repa=REPA(), encoder=PatchEncoder(torch.nn.Identity(), 3))},
            r"objective\.repa needs more of",
        ),
        ({"objective": dict(adaptive=AdaptiveWeight())}, r"objective\.adaptive needs more of Smallest .*last_layer"),
        ({"checkpoint_blocks": True}, r"model\.checkpoint_blocks needs more of Smallest .*blocks"),
        ({"compile_blocks": True}, r"compile_blocks needs more of Smallest .*blocks"),
    ],
)
def test_what_options_need_more_is_asked_for_in_one_sentence(options, message):
    if "objective" in options:
        options = {"objective": Objective(**options["objective"])}
    with pytest.raises(ValueError, match=message):
        PixelGen(Smallest(), **options)


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
        (["red circle"], 0, "have no known names: give numbers, 0 to 2, instead of 'red circle'"),
        ([0.5], 0, "class numbers, 0 to 2"),
    ],
)
def test_wrong_requests_are_refused(condition, seeds, message):
    with pytest.raises(ValueError, match=message):
        tiny().sample(condition, seeds)


def test_nonsense_dropout_is_refused():
    with pytest.raises(ValueError, match=r"condition_dropout is 1\.5: give a number of at least 0 and at most 1"):
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


class Named(LightningDataModule):
    """Three classes with names."""

    def __init__(self, *names):
        super().__init__()
        self.class_names = list(names)

    def train_dataloader(self):
        return batches(4)


def test_names_of_classes_stay_with_the_checkpoint_of_any_trainer(tmp_path):
    """Lightning's trainer alone, without the callbacks and the command line of this package."""
    trainer = train(model := tiny(), 1, data=Named("ant", "bee", "cat"))
    assert model.class_names == ["ant", "bee", "cat"]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = tiny()
    train(again, 2, ckpt_path=tmp_path / "a.ckpt")
    assert again.class_names == ["ant", "bee", "cat"]
    assert torch.equal(again.sample(["cat", "ant"]), again.sample([2, 0]))
    for names, said in {
        ("bee", "cat", "zebra"): r"class 0 was 'ant' and is 'bee'; gone: 'ant'; new: 'zebra'",
        ("bee", "ant", "cat"): r"class 0 was 'ant' and is 'bee'\)",
    }.items():
        with pytest.raises(ValueError, match=rf"not those of the checkpoint \({said}"):
            train(tiny(), 2, data=Named(*names), ckpt_path=tmp_path / "a.ckpt")


def test_networks_without_classes_have_no_names(tmp_path):
    trainer = train(model := tiny(num_classes=None), 1, data=Named("ant", "bee", "cat"))
    assert model.class_names is None
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    train(tiny(num_classes=None), 2, data=Named("zebra"), ckpt_path=tmp_path / "a.ckpt")
