"""Text models: what they are trained on and sampled from. Class models are tested in test_module.py."""

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from pixelgen import PixelGen
from pixelgen.conditioner import Labels, Text, Unconditional
from pixelgen.encoders import TextEncoder
from pixelgen.flow import Euler
from pixelgen.models import JiT, TextJiT
from tiny_transformers import tiny_qwen3

GUIDED = Euler(num_steps=2, guidance=2.0)


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(str(tiny_qwen3()), max_length=6, dtype="float32")


def denoiser(**options):
    torch.manual_seed(0)
    sizes = dict(patch_size=4, hidden_size=16, depth=2, num_heads=2, text_depth=1, bottleneck_dim=4)
    network = TextJiT(8, **{**sizes, "text_dim": 16, "text_length": 6, **options})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


class Recorder(PixelGen):
    """Keeps the conditions that the network is given, and the times."""

    def predict(self, x_t, t, condition):
        self.seen = [*getattr(self, "seen", []), condition]
        self.times = [*getattr(self, "times", []), t]
        return super().predict(x_t, t, condition)


def train(model, batch, steps=1):
    items = [{key: value[i] for key, value in batch.items()} for i in range(len(batch["image"]))]
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=steps, accelerator="cpu", enable_model_summary=False, **options)
    trainer.fit(model, DataLoader(items * steps, batch_size=len(items)))


def images(count):
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)


def test_captions_and_their_states_train_alike(encoder):
    captions = ["a red circle", "a photo of a blue square"] * 8
    pictures = images(16)
    models = [Recorder(denoiser(), text_encoder=encoder, condition_dropout=0.5) for _ in range(2)]
    train(models[0], {"image": pictures, "caption": captions})
    train(models[1], {"image": pictures, "text": encoder(captions)})
    assert torch.equal(models[0].seen[0], models[1].seen[0])
    weights = [model.denoiser.state_dict() for model in models]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_dropped_prompts_are_those_whose_labels_would_be(encoder):
    """The same seed drops the same places, and draws the same times, in a class model and in a text model."""
    pictures = images(16)
    text = Recorder(denoiser(), text_encoder=encoder, condition_dropout=0.5)
    train(text, {"image": pictures, "caption": ["a red circle"] * 16})
    network = JiT(8, 4, hidden_size=16, depth=2, num_heads=2, num_classes=3, bottleneck_dim=4, in_context_start=1)
    labelled = Recorder(network, condition_dropout=0.5)
    train(labelled, {"image": pictures, "label": torch.zeros(16, dtype=torch.long)})
    dropped = [bool(torch.equal(states, encoder.recall(""))) for states in text.seen[0]]
    assert dropped == (labelled.seen[0] == 3).tolist()
    assert 0 < sum(dropped) < 16
    assert torch.equal(text.times[0], labelled.times[0])


def test_the_encoder_is_neither_trained_nor_saved(encoder):
    model = PixelGen(denoiser(), text_encoder=encoder)
    optimised = {id(p) for group in model.configure_optimizers().param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in encoder.network.parameters()}
    assert not any("text_encoder" in key for key in model.state_dict())


def test_prompts_and_their_states_make_the_same_images(encoder):
    model = PixelGen(denoiser(), sampler=GUIDED, text_encoder=encoder)
    prompts = ["a red circle", "a blue square", "a green circle"]
    made = model.sample(prompts, seeds=3, batch_size=2)
    assert made.shape == (3, 3, 8, 8)
    assert torch.allclose(made, model.sample(encoder(prompts), seeds=3), atol=1e-5)
    assert torch.allclose(made[1:2], model.sample("a blue square", seeds=4), atol=1e-5)
    assert torch.allclose(made[2], model.sample(encoder(prompts)[2], seeds=[4, 5])[1], atol=1e-5)
    assert not torch.allclose(made[0], model.sample("a blue square", seeds=3)[0], atol=1e-3)
    assert model.sample(prompts, size=(8, 16)).shape == (3, 3, 8, 16)


def test_negative_prompts_hold_for_one_call(encoder):
    model = PixelGen(denoiser(), sampler=GUIDED, text_encoder=encoder)
    plain = model.sample("a red circle")
    first, second = (model.sample("a red circle", negative=text) for text in ("blue square", "green"))
    assert not torch.allclose(plain, first, atol=1e-3)
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.equal(model.sample("a red circle"), plain)
    assert torch.equal(model.sample("a red circle", negative="blue square"), first)


def test_guidance_leads_away_from_the_negative_prompt(encoder):
    """v_negative + 2·(v - v_negative), the negative prompt's own velocity in the place of the empty one's."""
    model = PixelGen(denoiser(), text_encoder=encoder)
    seen = []

    class Recording(Euler):
        def __call__(self, predict, noise, condition, null, progress=None):
            seen.append((condition, null))
            return super().__call__(predict, noise, condition, null, progress)

    model.sample(["a red circle"] * 2, sampler=Recording(num_steps=2, guidance=2.0), negative="blue")
    assert torch.allclose(seen[0][1], encoder(["blue", "blue"]), atol=1e-6)
    assert torch.allclose(seen[0][0], encoder(["a red circle"] * 2), atol=1e-6)


@pytest.mark.parametrize(
    ("condition", "options", "message"),
    [
        (None, {}, r"takes prompts, such as \['a red circle'\], not None"),
        ([1, 2], {}, r"takes prompts, .* not \[1, 2\]"),
        (3, {}, "takes prompts"),
        ([], {}, "takes prompts"),
        (["a", "b"], {"seeds": [1]}, "2 conditions but 1 seeds"),
        ("a", {"negative": "b", "sampler": Euler(num_steps=1)}, "does nothing without guidance"),
    ],
)
def test_wrong_requests_are_refused(encoder, condition, options, message):
    with pytest.raises(ValueError, match=message):
        PixelGen(denoiser(), sampler=GUIDED, text_encoder=encoder).sample(condition, **options)


def test_class_models_take_no_negative_prompt():
    model = PixelGen(JiT(8, 4, hidden_size=16, depth=2, num_heads=2, num_classes=3, in_context_start=1))
    with pytest.raises(ValueError, match="there is no negative one"):
        model.sample([0], negative="blue")


def test_without_text_encoder_states_serve_but_prompts_do_not(encoder):
    model = PixelGen(denoiser())
    plain = Euler(num_steps=1)
    assert model.sample(encoder(["a red circle"]), sampler=plain).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="prompts need a text encoder"):
        model.sample("a red circle", sampler=plain)
    with pytest.raises(ValueError, match="guided away from, needs a text encoder"):
        model.sample(encoder(["a red circle"]), sampler=GUIDED)
    with pytest.raises(ValueError, match="dropped to and guided away from, needs a text encoder"):
        model.denoise({"image": images(1), "text": encoder(["a"])})
    with pytest.raises(ValueError, match="needs batches with `caption`"):
        model.denoise({"image": images(1)})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (denoiser(text_dim=8), "gives 6 embeddings of width 16, but the denoiser is built for 6 of width 8"),
        (denoiser(text_length=5), "gives 6 embeddings of width 16, but the denoiser is built for 5 of width 16"),
        (denoiser(mask_padding=True), "mask_padding is True, but the text encoder's zero_padding is False"),
        (JiT(8, 4, hidden_size=16, depth=2, num_heads=2, in_context_start=1), "JiT takes no prompts"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(encoder, network, message):
    with pytest.raises(ValueError, match=message):
        PixelGen(network, text_encoder=encoder)


def test_masked_padding_trains_and_samples():
    encoder = TextEncoder(str(tiny_qwen3()), max_length=6, dtype="float32", zero_padding=True)
    model = PixelGen(denoiser(mask_padding=True), sampler=GUIDED, text_encoder=encoder)
    train(model, {"image": images(2), "caption": ["a red circle", ""]})
    assert model.sample(["a red circle", ""]).isfinite().all()


def test_dropped_labels_are_the_null_class():
    labels, drop = Labels(3), torch.tensor([True, False, True])
    assert labels.drop(torch.tensor([0, 1, 2]), drop).tolist() == [3, 1, 3]
    assert Unconditional().drop(None, drop) is None


def test_examples_take_classes_in_turn_or_evenly():
    assert Labels(3).examples(5, None) == [0, 1, 2, 0, 1]
    assert Labels(1000).examples(4, None) == [0, 250, 500, 750]
    assert Unconditional().examples(2, None) == [None, None]
    with pytest.raises(ValueError, match="give prompts to the callback"):
        Text(None).examples(2, None)


def test_null_is_no_condition(encoder):
    network = JiT(8, 4, hidden_size=16, depth=2, num_heads=2, num_classes=None)
    assert isinstance(PixelGen(network, conditioner=None).conditioner, Unconditional)
    assert isinstance(PixelGen(network).conditioner, Unconditional)
    with pytest.raises(ValueError, match="are both given"):
        PixelGen(denoiser(), text_encoder=encoder, conditioner=None)
