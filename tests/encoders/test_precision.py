"""A prediction in half precision is normalised like the clean image in float32."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from pixelgen.encoders import VGG16, Backbone, BackbonePatches, VisionTransformerPatches
from pixelgen.encoders.vgg import vgg16_features
from pixelgen.losses import LPIPS, cosine_distance


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save({f"features.{key}": value for key, value in vgg16_features().state_dict().items()}, path)
    return VGG16(path)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    return VisionTransformerPatches(network, layer=1, patch_size=16)


@pytest.fixture(scope="module")
def images():
    """Values that bfloat16 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1).bfloat16()


@pytest.fixture(scope="module", params=["vgg", "vit", "pyramid", "patches"])
def encoder(request, vgg, vit):
    return {
        "vgg": lambda: vgg,
        "vit": lambda: vit,
        "pyramid": lambda: Backbone(levels=(0, 2), upsample=2),
        "patches": lambda: BackbonePatches(level=1),
    }[request.param]()


@pytest.mark.parametrize("autocast", [False, True])
def test_the_same_values_give_the_same_features(encoder, images, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        half, full = encoder(images), encoder(images.float())
    for a, b in zip(half, full, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("patch_size", [16, 8])
def test_a_perfect_prediction_costs_nothing_under_autocast(vgg, vit, images, patch_size):
    lpips = LPIPS(vgg)
    lpips.patch_size = patch_size
    prediction = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert lpips(prediction, images.float()).abs().max() == 0
        with torch.no_grad():
            target = vit(images.float())
        assert cosine_distance(vit(prediction), target).abs().max() <= 1.2e-7  # float32's rounding of 1
