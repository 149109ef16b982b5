"""Every encoder takes the path of its weights as a string or a Path."""

from pathlib import Path

import pytest
import timm
import torch

from pixelgen.encoders import (
    VGG16,
    Backbone,
    BackboneFeatures,
    BackbonePatches,
    DINOv2Features,
    Inception,
    TextEncoder,
    dinov2,
)
from pixelgen.encoders.clip import CLIP
from pixelgen.encoders.mask2former import Mask2Former
from pixelgen.encoders.vgg import vgg16_features
from random_inception import write_weights
from tiny_transformers import tiny_clip, tiny_mask2former, tiny_qwen3

VIT, RESNET = "vit_tiny_patch16_224", "resnet10t"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name in (VIT, RESNET):
        torch.save(timm.create_model(name).state_dict(), folder / name)
    torch.save({f"features.{key}": value for key, value in vgg16_features().state_dict().items()}, folder / "vgg")
    write_weights(folder / "inception")
    return folder


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (VGG16, "vgg"),
        (Inception, "inception"),
        (lambda weights: dinov2(weights, model=VIT, layer=1), VIT),
        (lambda weights: DINOv2Features(weights, model=VIT), VIT),
        (lambda weights: Backbone(RESNET, weights=weights), RESNET),
        (lambda weights: BackbonePatches(RESNET, weights=weights), RESNET),
        (lambda weights: BackboneFeatures(RESNET, weights=weights), RESNET),
    ],
)
def test_weights_in_a_file(files, kind, build, name):
    encoder = build(kind(files / name))
    assert not list(encoder.parameters())
    with pytest.raises(ValueError, match=r"^no weights of .*: pass the path of the downloaded file"):
        build(kind(files / "nothing.pth"))


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(
    ("build", "folder"), [(CLIP, tiny_clip), (Mask2Former, tiny_mask2former), (TextEncoder, tiny_qwen3)]
)
def test_weights_in_a_folder(kind, build, folder, tmp_path):
    encoder = build(kind(folder()))
    assert not list(encoder.parameters())
    if build is TextEncoder:
        assert encoder.settings["model"] == str(folder())
    with pytest.raises(ValueError, match=r"^cannot load \w+ from .*: give a folder with its files"):
        build(kind(tmp_path))
