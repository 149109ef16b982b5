import pytest
import torch

from pixelgen.encoders import Backbone, BackboneFeatures, BackbonePatches


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pyramid_of_the_packaged_network(images):
    pyramid = Backbone(levels=(0, 2, 3))
    maps = pyramid(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 16, 16), (40, 4, 4), (112, 2, 2)]
    assert pyramid.channels == [16, 40, 112]
    assert [tuple(m.shape[2:]) for m in Backbone(levels=(0,), upsample=2)(images)] == [(32, 32)]


def test_weights_are_the_real_ones():
    """scikit-learn's photo of a flower is recognised as ImageNet's only flower head, class 985 (daisy)."""
    from sklearn.datasets import load_sample_image

    from pixelgen.encoders.hub import load_timm

    network = load_timm("tf_efficientnet_lite0")[0].eval()
    photo = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    photo = torch.nn.functional.interpolate(photo[..., 0:427, 100:527], (224, 224), mode="bilinear", antialias=True)
    assert int(network(photo).argmax()) == 985


def test_only_needed_layers_are_kept():
    few = sum(p.numel() for p in Backbone(levels=(0, 1)).network.parameters())
    assert few < 20_000


def test_patches_are_rows_of_tokens(images):
    tokens = BackbonePatches(level=2, upsample=2)(images)
    assert tokens.shape == (2, 64, 40)


def test_pooled_features_name_themselves_and_their_weights(images):
    extractor = BackboneFeatures(size=32)
    features = extractor(((images + 1) * 127.5).to(torch.uint8))
    assert features.shape == (2, 320)
    assert extractor.name == "tf_efficientnet_lite0-level4-32px"
    assert extractor.num_features == 320
    assert len(extractor.weights_sha256) == 64


def test_bad_names_levels_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no model 'resnet5'"):
        Backbone("resnet5")
    with pytest.raises(ValueError, match="levels 0 to 4"):
        Backbone(levels=(7,))
    with pytest.raises(ValueError, match="no weights of resnet18"):
        Backbone("resnet18", weights=tmp_path / "nothing.pth")


def test_any_other_timm_model_from_a_file(tmp_path):
    import timm

    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pth")
    pyramid = Backbone("resnet10t", levels=(0, 1), weights=tmp_path / "resnet.pth")
    assert [m.shape[1] for m in pyramid(torch.zeros(1, 3, 32, 32))] == pyramid.channels
