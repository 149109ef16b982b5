"""A denoiser of one's own needs `forward` alone; what options need more is asked for in one sentence."""

import pytest
import torch
from torch import nn

from pixelgen.models import Denoiser, JiT, TextJiT


class Plain(Denoiser):
    """One layer, and nothing beside `forward`."""

    def __init__(self, image_size=8, **options):
        super().__init__(image_size, **options)
        self.layer = nn.Conv2d(self.in_channels, self.in_channels, 3, padding=1)

    def forward(self, x_t, t, condition=None):
        return self.layer(x_t) * t.view(-1, 1, 1, 1)


class Deep(Plain):
    """With blocks, but no way to look into them."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.hidden_size = 3

    @property
    def last_layer(self):
        return self.layer


def test_forward_is_enough():
    denoiser = Plain()
    assert (denoiser.image_size, denoiser.patch_size, denoiser.in_channels, denoiser.num_classes) == (8, 1, 3, None)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    prediction, hidden = denoiser.forward_with_features(x, t)
    assert torch.equal(prediction, denoiser(x, t))
    assert hidden is None
    assert denoiser.every_block() == []
    assert list(denoiser.state_dict()) == ["layer.weight", "layer.bias"]
    with pytest.raises(TypeError, match="abstract"):
        Denoiser(8)


def test_everything_missing_is_asked_for_in_one_sentence():
    with pytest.raises(ValueError, match=r"^objective\.repa needs") as caught:
        Plain().require("objective.repa", "hidden_size", "blocks", "forward_with_features")
    assert str(caught.value) == (
        "objective.repa needs more of Plain than `forward`: add `hidden_size` (the width of its tokens) and "
        "`blocks` (its blocks in order, an nn.ModuleList) and "
        "`forward_with_features` (a method that also returns the tokens entering a block)"
    )
    with pytest.raises(ValueError, match=r"needs more of Deep than `forward`: add `forward_with_features` \("):
        Deep().require("objective.repa", "hidden_size", "blocks", "forward_with_features")
    with pytest.raises(ValueError, match=r"^objective.adaptive needs more of Plain .*`last_layer`"):
        Plain().require("objective.adaptive", "last_layer")
    Deep().require("objective.adaptive", "last_layer")


def test_what_is_used_without_asking_says_the_same():
    with pytest.raises(ValueError, match="compile_blocks needs more of Plain than `forward`: add `blocks`"):
        Plain().compile_blocks()
    with pytest.raises(ValueError, match="add `forward_with_features`"):
        Plain().forward_with_features(torch.zeros(1, 3, 8, 8), torch.zeros(1), layer=0)
    with pytest.raises(ValueError, match="add `initialise`"):
        Plain().initialise()


@pytest.mark.parametrize("network", [JiT, TextJiT])
def test_our_networks_have_it_all(network):
    with torch.device("meta"):
        denoiser = (
            network(hidden_size=8, depth=1, num_heads=2, in_context_len=0)
            if network is JiT
            else network(hidden_size=8, depth=1, num_heads=2)
        )
    denoiser.require("everything", "hidden_size", "blocks", "forward_with_features", "last_layer", "initialise")


def tiny(kind):
    sizes = dict(input_size=8, patch_size=4, hidden_size=16, depth=2, num_heads=2, bottleneck_dim=4)
    if kind == "text":
        return TextJiT(**sizes, text_depth=1, text_dim=6, text_length=5), torch.randn(1, 5, 6)
    return JiT(**sizes, num_classes=3, in_context_len=2, in_context_start=1), torch.tensor([1])


@pytest.mark.parametrize(
    ("kind", "strict", "first"),
    [
        ("class", False, False),
        ("text", False, True),
        *(pytest.param(kind, True, first, marks=pytest.mark.slow) for kind in ("class", "text") for first in (0, 1)),
    ],
)
def test_exporting_leaves_no_fake_tensors_behind(kind, strict, first, monkeypatch):
    torch.manual_seed(0)
    network, condition = tiny(kind)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    size = (4, 4 * (3 + 2 * strict + 4 * first + 8 * (kind == "text")))  # one that no table is remembered for
    arguments = (torch.randn(1, 3, *size), torch.rand(1), condition)
    before = network(*arguments) if first else None
    exported = torch.export.export(network.eval(), arguments, strict=strict)
    after = network(*arguments)
    assert before is None or torch.equal(before, after)
    assert torch.allclose(exported.module()(*arguments), after, atol=1e-5)
    assert torch.equal(network(*arguments), after)
