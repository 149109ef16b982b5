import lpips as reference
import pytest
import torch
from torch import nn

from pixelgen.encoders import VGG16, FeaturePyramid
from pixelgen.encoders.vgg import vgg16_features
from pixelgen.flow import LogitNormalTime
from pixelgen.losses import LPIPS, FeatureDistance, Objective
from pixelgen.losses.lpips import lpips_heads, unit_distance, unit_length
from pixelgen.models import JiT


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """Random VGG-16 weights in torchvision's format."""
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in vgg16_features().state_dict().items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**state, "classifier.0.bias": torch.zeros(1)}, path)
    return path


def test_agrees_with_the_lpips_package(vgg_file, monkeypatch):
    loss = LPIPS(VGG16(vgg_file))
    small = nn.Sequential(*vgg16_features().children())
    small.load_state_dict(loss.encoder.network.state_dict())
    vgg = type("Vgg", (), {"features": [*small, nn.MaxPool2d(2)]})()
    monkeypatch.setattr(reference.pretrained_networks.tv, "vgg16", lambda **_: vgg)
    theirs = reference.LPIPS(net="vgg", verbose=False).eval()
    x_hat, x = torch.rand(2, 2, 3, 32, 32).mul(2).sub(1)
    expected = theirs(x_hat, x).flatten()
    assert expected.min() > 1e-4
    assert torch.allclose(loss(x_hat, x), expected, rtol=1e-4, atol=1e-6)


def test_other_patch_sizes_resize_as_released(vgg_file):
    loss = LPIPS(VGG16(vgg_file))
    network = JiT(32, 32, hidden_size=8, depth=1, num_heads=2, in_context_len=0)
    Objective(lpips=loss).connect(network, LogitNormalTime())
    assert loss.prepare(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 32, 32)
    assert LPIPS(VGG16(vgg_file)).prepare(x := torch.zeros(1, 3, 64, 64)) is x
    corner = torch.zeros(1, 3, 64, 64)
    corner[..., 1, 1] = 64.0
    # antialiased: weights 1/8, 3/8, 3/8, 1/8, of which the border keeps 3/7, 3/7, 1/7
    assert torch.allclose(loss.prepare(corner)[0, 0, :2, :2], 64 * torch.tensor([[9 / 49, 3 / 56], [3 / 56, 1 / 64]]))


def test_patches_of_32_compare_images_of_half_the_side(vgg_file):
    large, usual = LPIPS(VGG16(vgg_file)), LPIPS(VGG16(vgg_file))
    large.patch_size = 32
    x_hat, x = torch.rand(2, 2, 3, 64, 96).mul(2).sub(1)
    half = [nn.functional.interpolate(image, (32, 48), mode="bilinear", antialias=True) for image in (x_hat, x)]
    assert torch.allclose(large(x_hat, x), usual(*half), rtol=1e-6)
    assert (large(x_hat, x) - usual(x_hat, x)).abs().min() > 1e-4


def test_nothing_frozen_is_trained_or_saved(vgg_file):
    loss = LPIPS(VGG16(vgg_file))
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert not any(p.requires_grad for p in loss.encoder.network.parameters())
    loss.train()
    assert not loss.encoder.network.training
    loss.double()
    assert {p.dtype for p in loss.encoder.network.parameters()} == {torch.float64}


def test_gradient_is_finite_where_all_features_are_zero():
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    unit_distance(features, torch.ones(1, 4, 2, 2)).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_gradient_reaches_the_prediction_only(vgg_file):
    x_hat, x = torch.rand(2, 1, 3, 16, 16, requires_grad=False)
    x_hat.requires_grad_()
    x.requires_grad_()
    LPIPS(VGG16(vgg_file))(x_hat, x).sum().backward()
    assert x_hat.grad.abs().sum() > 0
    assert x.grad is None


def test_unit_distance_by_hand():
    f = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    g = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    assert torch.allclose(unit_length(f).flatten(), torch.tensor([0.6, 0.8]))
    assert torch.allclose(unit_distance(f, g), torch.tensor([0.36 + 0.04]))
    assert torch.allclose(unit_distance(f, g, torch.tensor([1.0, 0.5])), torch.tensor([0.36 + 0.02]))


def test_feature_distance_averages_depths():
    class TwoDepths(FeaturePyramid):
        def forward(self, images):
            return [images, images * torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)]

    loss = FeatureDistance(TwoDepths(nn.Identity(), [3, 3]))
    x_hat, x = torch.zeros(2, 1, 3, 1, 1)
    x_hat[0, 0], x[0, 1] = 1.0, 1.0  # unit vectors along different channels: squared distance 2; then 1 against 0
    assert torch.allclose(loss(x_hat, x), torch.tensor([(2 + 1) / 2]))


def test_heads_are_those_of_the_package():
    assert [len(head) for head in lpips_heads()] == [64, 128, 256, 512, 512]
    assert all((head >= 0).all() for head in lpips_heads())


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no weights of VGG-16 at"):
        VGG16(tmp_path / "nothing.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(ValueError, match=r"put it at .*vgg16-397923af\.pth"):
        VGG16()
    (tmp_path / "half.pth").write_bytes(b"half of it")
    with pytest.raises(ValueError, match="does not hold weights of VGG-16"):
        VGG16(tmp_path / "half.pth")
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="not torchvision's VGG-16"):
        VGG16(tmp_path / "empty.pth")
