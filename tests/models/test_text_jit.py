import math

import pytest
import torch

from golden_files import load_golden, section
from pixelgen.models import TextJiT, text_jit
from pixelgen.models.rotary import alternating_table, position_embedding


def tiny(**options) -> TextJiT:
    settings = dict(input_size=8, patch_size=4, hidden_size=16, depth=2, num_heads=2, text_depth=1)
    return TextJiT(**{**settings, "text_dim": 6, "text_length": 5, "bottleneck_dim": 4, **options})


def awake(model: TextJiT) -> TextJiT:
    """Random values in every parameter, so that zero-initialised layers do something."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def states(batch=2, padded=0):
    torch.manual_seed(1)
    text = torch.randn(batch, 5, 6)
    text[:, 5 - padded :] = 0
    return text


NAMES = dict(num_blocks="depth", num_groups="num_heads", num_text_blocks="text_depth", txt_embed_dim="text_dim")
NAMES |= {"txt_max_length": "text_length"}  # of the release → ours


def test_agrees_with_the_release():
    tensors, settings = load_golden("text")
    model = TextJiT(**{NAMES.get(name, name): value for name, value in settings["config"].items()}).eval()
    computed_positions = model.pos_embed.clone()
    model.load_state_dict(section(tensors, "weights"))
    assert torch.allclose(computed_positions, model.pos_embed, atol=1e-6)
    inputs, expected = section(tensors, "input"), section(tensors, "expected")
    x_hat, features = model.forward_with_features(
        inputs["x"], inputs["t"], inputs["text"], layer=settings["align_layer"]
    )
    assert (x_hat - expected["x_pred"]).abs().max() < 1e-5
    assert (features - expected["features"]).abs().max() < 1e-5


def test_published_size():
    with torch.device("meta"):
        model = text_jit()
    state = model.state_dict()
    assert (len(state), sum(value.numel() for value in state.values())) == (250, 1_123_312_384)
    assert (model.image_size, model.text_shape, model.mask_padding) == (512, (128, 2048), False)
    assert "pos_embed" not in dict(model.named_parameters())


def test_entries_at_full_size():
    """Every name and shape of the published checkpoint, written out from its description."""
    attention = {f"attn.{name}.weight": (64,) for name in ("q_norm", "k_norm")}
    attention |= {"attn.proj.weight": (1536, 1536), "attn.proj.bias": (1536,)}
    rest = {"mlp.w12.weight": (12288, 1536), "mlp.w3.weight": (1536, 6144), "norm1.weight": (1536,)}
    rest |= {"norm2.weight": (1536,), "adaLN_modulation.0.weight": (9216, 1536), "adaLN_modulation.0.bias": (9216,)}
    image = {"attn.qkv_x.weight": (4608, 1536), "attn.kv_y.weight": (3072, 1536), **attention, **rest}
    refine = {"attn.qkv.weight": (4608, 1536), **attention, **rest}
    expected = {
        "pos_embed": (1, 1024, 1536),
        "x_embedder.proj1.weight": (256, 768),
        "x_embedder.proj2.weight": (1536, 256),
        "x_embedder.proj2.bias": (1536,),
        "t_embedder.mlp.0.weight": (1536, 256),
        "t_embedder.mlp.0.bias": (1536,),
        "t_embedder.mlp.2.weight": (1536, 1536),
        "t_embedder.mlp.2.bias": (1536,),
        "y_embedder.proj.weight": (1536, 2048),
        "y_embedder.proj.bias": (1536,),
        "y_embedder.norm.weight": (1536,),
        "y_pos_embedding": (1, 128, 1536),
        "final_layer.linear.weight": (768, 1536),
        "final_layer.linear.bias": (768,),
        **{f"blocks.{i}.{name}": shape for i in range(16) for name, shape in image.items()},
        **{f"text_refine_blocks.{i}.{name}": shape for i in range(4) for name, shape in refine.items()},
    }
    with torch.device("meta"):
        state = text_jit().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert len(expected) == 250


def test_starts_by_predicting_zero():
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(tiny()(x, torch.rand(2), states()), torch.zeros_like(x))


def test_initialise_fills_everything():
    torch.manual_seed(0)
    model, again = tiny(), tiny().state_dict()
    for value in model.state_dict().values():
        value.fill_(float("nan"))
    model.initialise()
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
        assert value.std(correction=0) == pytest.approx(float(again[name].std(correction=0)), abs=0.04), name


def test_positions_keep_the_spacing_of_the_training_square():
    """Pairs alternate column, row; frequency 1 first. Neighbours in a square of 4 are 4/3 apart."""
    head_dim, device = 8, torch.device("cpu")
    square, _ = alternating_table(head_dim, 4, 4, 2, device)
    assert square[3, :2].tolist() == pytest.approx([math.cos(4), 1.0], abs=1e-6)
    assert square[12, :2].tolist() == pytest.approx([1.0, math.cos(4)], abs=1e-6)
    assert square[1, 2:].tolist() == pytest.approx([math.cos(4 / 3 * 10_000**-0.5), 1.0], abs=1e-6)
    wide, _ = alternating_table(head_dim, 2, 4, 4, device)
    assert torch.equal(wide, square[:8])
    other, _ = alternating_table(head_dim, 2, 4, 8, device)
    assert other[1, 0] == pytest.approx(math.cos(8 / 7), abs=1e-6)
    assert alternating_table(head_dim, 1, 1, 1, device)[0].tolist() == [[1.0] * 4]


def test_other_sizes_and_shapes_get_their_own_positions():
    small, large = awake(tiny(input_size=8)), tiny(input_size=16)
    large.load_state_dict({**small.state_dict(), "pos_embed": large.pos_embed})
    x, t = torch.randn(1, 3, 16, 16), torch.rand(1)
    assert torch.equal(small(x, t, states(1)), large.eval()(x, t, states(1)))
    assert small(torch.randn(1, 3, 12, 8), t, states(1)).shape == (1, 3, 12, 8)


def test_positions_of_another_size_are_computed_once(monkeypatch):
    computed = []

    def counted(*arguments):
        computed.append(arguments)
        return position_embedding(*arguments)

    model = tiny()
    monkeypatch.setattr("pixelgen.models.transformer.position_embedding", counted)
    with torch.inference_mode():
        first = model.positions(2, 7)
    assert torch.equal(first, position_embedding(16, 2, 7))
    assert model.positions(2, 7) is first
    assert not first.is_inference()  # fit for training later
    assert model.double().positions(2, 7).dtype == torch.float64
    assert computed == [(16, 2, 7)] * 2


@pytest.mark.parametrize("masked", [False, True])
def test_masked_padding_is_as_if_it_were_not_there(masked):
    """Two prompts that share their words; in one of them a padded place is filled with positions of its own."""
    model = awake(tiny(mask_padding=masked))
    x, t, text = torch.randn(2, 3, 8, 8), torch.rand(2), states(padded=2)
    expected = model(x, t, text)
    with torch.no_grad():
        model.y_pos_embedding[:, 3:] += 1
    assert torch.allclose(model(x, t, text), expected, atol=1e-5) == masked


def test_a_prompt_that_is_all_padding_is_finite():
    model = awake(tiny(mask_padding=True))
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    text = states()
    text[1] = 0
    both = model(x, t, text)
    assert both.isfinite().all()
    assert torch.allclose(both[:1], model(x[:1], t[:1], text[:1]), atol=1e-5)


def test_checkpointing_and_compiling_change_neither_values_nor_names():
    model = awake(tiny(mask_padding=True))
    names = list(model.state_dict())
    x, t, text = torch.randn(2, 3, 8, 8), torch.rand(2), states(padded=1)
    weight = model.text_refine_blocks[0].attn.qkv.weight
    model(x, t, text).square().sum().backward()
    gradient = weight.grad.clone()
    model.zero_grad()
    model.checkpoint_blocks = True
    model(x, t, text).square().sum().backward()
    assert torch.allclose(gradient, weight.grad, rtol=1e-5)
    model.compile_blocks()
    assert list(model.state_dict()) == names
    assert all(block._compiled_call_impl is not None for block in [*model.text_refine_blocks, *model.blocks])


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_blocks_agree(masked):
    model = awake(tiny(mask_padding=masked))
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    expected = model(x, t, states(padded=1))
    model.compile_blocks()
    assert torch.allclose(model(x, t, states(padded=1)), expected, atol=1e-5)


@pytest.mark.parametrize("text", [None, torch.zeros(1, 4, 6), torch.zeros(1, dtype=torch.long)])
def test_other_conditions_are_refused(text):
    with pytest.raises(ValueError, match=r"this network needs text states \(B, 5, 6\), not "):
        tiny()(torch.randn(1, 3, 8, 8), torch.rand(1), text)


def test_impossible_sizes_say_what_to_change():
    with pytest.raises(ValueError, match="hidden size 16 is not a multiple"):
        tiny(num_heads=3)
    with pytest.raises(ValueError, match="do not divide into patches"):
        tiny()(torch.randn(1, 3, 8, 10), torch.rand(1), states(1))
