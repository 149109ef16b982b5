import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from golden_files import load_golden, section
from pixelgen.encoders import DINOv2Features, VisionTransformerPatches, dinov2
from pixelgen.encoders.dino import resample_positions


def golden_encoder(patch_size=16, layer=2):
    tensors, settings = load_golden("dino_features")
    network = VisionTransformer(num_classes=0, **settings["config"])
    weights = {
        key.replace("blocks.0.", "blocks.", 1): value
        for key, value in section(tensors, "weights").items()
        if key != "mask_token"
    }
    network.load_state_dict(weights)
    return VisionTransformerPatches(network, layer=layer, patch_size=patch_size), tensors


def test_agrees_with_dinov2():
    encoder, tensors = golden_encoder()
    tokens = encoder(tensors["input.image"] * 2 - 1)
    assert (tokens - tensors["expected.layer2"]).abs().max() < 1e-5


def test_native_grid_keeps_its_positions():
    encoder, _ = golden_encoder()
    positions = encoder.network.pos_embed
    assert resample_positions(positions, 5, 5) is positions
    assert resample_positions(positions, 3, 4).shape == (1, 13, 24)


def test_one_token_per_patch_of_the_denoiser():
    encoder, _ = golden_encoder(patch_size=32)
    assert encoder(torch.zeros(2, 3, 64, 96)).shape == (2, 6, 24)


def test_earlier_layers_drop_the_later_blocks():
    encoder, _ = golden_encoder(layer=0)
    assert len(encoder.network.blocks) == 1


def test_encoders_on_one_network_do_not_cut_each_other():
    encoder, tensors = golden_encoder()
    network = encoder.network
    first, second = (VisionTransformerPatches(network, layer=layer) for layer in (0, 2))
    assert (len(network.blocks), len(first.network.blocks), len(second.network.blocks)) == (3, 1, 3)
    images = tensors["input.image"] * 2 - 1
    assert torch.equal(second(images), encoder(images))


def test_exporting_leaves_no_fake_positions_behind():
    encoder, _ = golden_encoder()
    images = torch.zeros(1, 3, 48, 64)
    exported = torch.export.export(encoder, (images,), strict=False)
    tokens = encoder(images)
    torch.testing.assert_close(exported.module()(images), tokens)


def test_gradient_flows_through_also_after_inference_mode():
    encoder, _ = golden_encoder()
    with torch.inference_mode():
        encoder(torch.zeros(1, 3, 48, 48))
    x = torch.rand(1, 3, 48, 48, requires_grad=True)
    encoder(x).square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_bad_sizes_layers_and_files_are_refused(tmp_path, monkeypatch):
    encoder, _ = golden_encoder()
    with pytest.raises(ValueError, match="multiples of 16, not 40x48"):
        encoder(torch.zeros(1, 3, 40, 48))
    with pytest.raises(ValueError, match="blocks 0 to 2"):
        golden_encoder(layer=3)
    with pytest.raises(ValueError, match="no weights of vit_base"):
        dinov2(tmp_path / "nothing.pth")


def test_loads_a_local_file_and_checks_its_hash(tmp_path):
    """The real loading path, with a small random network of the same class."""
    import timm

    name = "vit_tiny_patch16_224"
    path = tmp_path / "vit.pth"
    torch.manual_seed(0)
    network = timm.create_model(name)
    torch.save(network.state_dict(), path)
    encoder = dinov2(path, model=name, layer=1)
    assert torch.equal(encoder.network.pos_embed, network.pos_embed)
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 192)
    with pytest.raises(ValueError, match="not the expected 00"):
        dinov2(path, model=name, sha256="00")


@pytest.fixture(scope="module")
def small_vit(tmp_path_factory):
    """A random network of timm's class, and its weights in a file."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    path = tmp_path_factory.mktemp("vit") / "vit.pth"
    torch.save(network.state_dict(), path)
    return network, path


def test_class_tokens_are_those_of_timm_at_the_native_size(small_vit):
    network, path = small_vit
    extractor = DINOv2Features(path, model="vit_tiny_patch16_224")
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = network.forward_features((images / 255 - mean) / std)[:, 0]
    torch.testing.assert_close(extractor(images), expected, rtol=1e-4, atol=1e-5)
    assert extractor.name == "vit_tiny_patch16_224-224px"
    assert len(extractor.weights_sha256) == 64
    assert extractor.metric("frechet") == "frechet/vit_tiny_patch16_224-224px"
    extractor.standard = True
    assert (extractor.metric("frechet"), extractor.metric("kid")[:4]) == ("fd_dinov2", "kid/")


def test_images_are_resized_and_positions_resampled(small_vit):
    _, path = small_vit
    extractor = DINOv2Features(path, model="vit_tiny_patch16_224", size=64)
    assert extractor.network.pos_embed.shape == (1, 17, 192)
    images = torch.full((1, 3, 10, 12), 128, dtype=torch.uint8)
    same = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    torch.testing.assert_close(extractor(images), extractor(same), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="size 60 is no multiple of the patch size 16"):
        DINOv2Features(path, model="vit_tiny_patch16_224", size=60)
    with pytest.raises(ValueError, match="not the expected 00"):
        DINOv2Features(path, model="vit_tiny_patch16_224", sha256="00")
