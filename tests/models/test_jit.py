import math

import pytest
import torch

from golden_files import load_golden, section
from pixelgen.models import JiT, jit
from pixelgen.models.rotary import rotary_table


def tiny(**options) -> JiT:
    settings = dict(input_size=8, patch_size=4, hidden_size=16, depth=4, num_heads=2, num_classes=3, bottleneck_dim=4)
    return JiT(**{**settings, "in_context_len": 2, "in_context_start": 1, **options})


def awake(model: JiT) -> JiT:
    """Random values in every parameter, so that zero-initialised layers do something."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("name", ["class_bottleneck", "class_plain"])
def test_agrees_with_the_release(name):
    tensors, settings = load_golden(name)
    config = dict(settings["config"])
    if not config.pop("use_bottleneck"):
        config["bottleneck_dim"] = None
    model = JiT(**config).eval()
    computed_positions = model.pos_embed.clone()
    model.load_state_dict(section(tensors, "weights"))
    assert torch.allclose(computed_positions, model.pos_embed, atol=1e-6)
    inputs = section(tensors, "input")
    x_hat, features = model.forward_with_features(inputs["x"], inputs["t"], inputs["y"], layer=settings["align_layer"])
    expected = section(tensors, "expected")
    assert (x_hat - expected["x_pred"]).abs().max() < 1e-5
    assert (features - expected["features"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("size", "parameters", "entries"),
    [
        ("B/16", 131_320_320, 183),
        ("L/16", 459_139_808, 351),
        ("XL/16", 676_994_112, 406),
        ("H/16", 952_842_048, 463),
    ],
)
def test_published_sizes(size, parameters, entries):
    with torch.device("meta"):
        model = jit(size)
    assert sum(value.numel() for value in model.state_dict().values()) == parameters
    assert len(model.state_dict()) == entries
    assert "pos_embed" not in dict(model.named_parameters())


def test_dropout_only_in_the_middle_blocks():
    model = tiny(depth=8, attn_drop=0.1, proj_drop=0.2)
    assert [block.mlp.dropout.p for block in model.blocks] == [0, 0, 0.2, 0.2, 0.2, 0.2, 0, 0]
    assert [block.attn.attn_drop for block in model.blocks] == [0, 0, 0.1, 0.1, 0.1, 0.1, 0, 0]


def test_starts_by_predicting_zero():
    model = tiny()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x, torch.rand(2), torch.tensor([0, 3])), torch.zeros_like(x))


def test_unconditional_network_takes_no_label():
    model = awake(tiny(num_classes=None))
    assert not any("y_embedder" in name or "in_context" in name for name in model.state_dict())
    assert model(torch.randn(2, 3, 8, 8), torch.rand(2)).shape == (2, 3, 8, 8)


def test_other_sizes_and_shapes_get_their_own_positions():
    small, large = awake(tiny(input_size=8)), tiny(input_size=16)
    state = {**small.state_dict(), "pos_embed": large.pos_embed}
    large.load_state_dict(state)
    x, t, y = torch.randn(1, 3, 16, 16), torch.rand(1), torch.tensor([1])
    assert torch.equal(small(x, t, y), large.eval()(x, t, y))
    assert small(torch.randn(1, 3, 12, 8), t, y).shape == (1, 3, 12, 8)


def test_positions_of_an_image_that_is_no_square():
    """Two rows, three columns, with one frequency of 1 on each axis."""
    model = tiny(hidden_size=4, num_heads=1)
    places = [(row, column) for row in range(2) for column in range(3)]
    expected = [[math.sin(c), math.cos(c), math.sin(r), math.cos(r)] for r, c in places]
    assert torch.allclose(model.positions(2, 3), torch.tensor([expected]))
    cos, sin = rotary_table(4, 2, 3, 1, torch.device("cpu"))
    assert torch.allclose(cos, torch.tensor([[1, 1], *([math.cos(r), math.cos(c)] for r, c in places)]))
    assert torch.allclose(sin, torch.tensor([[0, 0], *([math.sin(r), math.sin(c)] for r, c in places)]))


def test_an_image_that_is_no_square_is_told_rows_from_columns():
    """Columns of black beside each other and rows of black above each other differ, also for patches of one colour."""
    model, t, y = awake(tiny()), torch.tensor([0.5]), torch.tensor([1])
    wide, tall = model(torch.zeros(1, 3, 4, 12), t, y), model(torch.zeros(1, 3, 12, 4), t, y)
    alone = model(torch.zeros(1, 3, 4, 4), t, y)
    patches = [*wide.split(4, dim=3), *tall.split(4, dim=2)]
    assert min((patch - alone).abs().max() for patch in patches) > 1e-3  # attention sees the others
    assert min((a - b).abs().max() for i, a in enumerate(patches) for b in patches[:i]) > 1e-3


def test_checkpointing_and_compiling_change_neither_values_nor_names():
    model = awake(tiny())
    names = list(model.state_dict())
    x, t, y = torch.randn(2, 3, 8, 8), torch.rand(2), torch.tensor([0, 2])
    model(x, t, y).square().sum().backward()
    gradient = model.blocks[0].attn.qkv.weight.grad.clone()
    model.zero_grad()
    model.checkpoint_blocks = True
    model(x, t, y).square().sum().backward()
    assert torch.allclose(gradient, model.blocks[0].attn.qkv.weight.grad, rtol=1e-5)
    model.compile_blocks()
    assert list(model.state_dict()) == names


@pytest.mark.slow
def test_compiled_blocks_agree():
    model = awake(tiny())
    x, t, y = torch.randn(2, 3, 8, 8), torch.rand(2), torch.tensor([0, 2])
    expected = model(x, t, y)
    model.compile_blocks()
    assert torch.allclose(model(x, t, y), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 10}, "not divisible by patch size 4"),
        ({"num_heads": 3}, "hidden size 16 is not a multiple"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"in_context_start": 4}, "blocks 0 to 3"),
    ],
)
def test_impossible_sizes_say_what_to_change(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_missing_label_and_odd_image_are_refused():
    model = tiny()
    with pytest.raises(ValueError, match="give a label"):
        model(torch.randn(1, 3, 8, 8), torch.rand(1))
    with pytest.raises(ValueError, match="do not divide into patches"):
        model(torch.randn(1, 3, 8, 10), torch.rand(1), torch.tensor([0]))


@pytest.mark.parametrize("options", [{}, {"num_classes": None}, {"bottleneck_dim": 8, "in_context_len": 2}])
def test_initialise_fills_everything(options):
    model = tiny(**options)
    state = model.state_dict()
    for value in state.values():
        value.fill_(float("nan"))
    model.initialise()
    again = tiny(**options).state_dict()
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
        assert value.std(correction=0) == pytest.approx(float(again[name].std(correction=0)), abs=0.02), name
