import torch
from torch import nn

from pixelgen.encoders import PatchEncoder
from pixelgen.losses import REPA, cosine_distance
from pixelgen.models import JiT


def test_cosine_distance_by_hand():
    a = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    b = torch.tensor([[[2.0, 0.0], [1.0, -1.0]]])
    assert torch.allclose(cosine_distance(a, b), torch.tensor([0.5]))


def test_cosines_are_float32_in_half_precision():
    a = torch.randn(1, 4, 768).bfloat16()
    assert cosine_distance(a, a).dtype == torch.float32
    assert cosine_distance(a, a).abs() < 1e-6


def test_projector_has_the_published_names():
    repa = REPA(layer=0)
    repa.connect(JiT(8, 4, hidden_size=8, depth=1, num_heads=2, in_context_len=0), PatchEncoder(nn.Identity(), 5))
    shapes = {name: tuple(value.shape) for name, value in repa.state_dict().items()}
    assert shapes == {
        **{"proj.0.0.weight": (8, 8), "proj.0.0.bias": (8,), "proj.0.2.weight": (8, 8), "proj.0.2.bias": (8,)},
        **{"proj.0.4.weight": (5, 8), "proj.0.4.bias": (5,)},
    }
