"""VGG-16 features at the five depths that LPIPS compares."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from pixelgen.checks import checked
from pixelgen.encoders.frozen import FeaturePyramid
from pixelgen.encoders.hub import download, read_weights

_LAST_LAYERS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3


class VGG16(FeaturePyramid):
    """VGG-16 trained on ImageNet, torchvision's weights; five feature maps with 64, 128, 256, 512, 512 channels.

    Args:
        weights: torchvision's `vgg16-397923af.pth`; null downloads it once into torch's hub folder.
    """

    shift = (-0.030, -0.088, -0.188)  # LPIPS' own normalisation of images in [-1, 1]
    scale = (0.458, 0.448, 0.450)

    @checked()
    def __init__(self, weights: str | Path | None = None) -> None:
        path = weights or download(VGG16_Weights.IMAGENET1K_V1.url, "VGG-16")
        network = vgg16_features()
        state = read_weights(path, "VGG-16")
        missing, _ = network.load_state_dict(
            {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")},
            strict=False,
        )
        if missing:
            raise ValueError(f"{path} is not torchvision's VGG-16: it lacks features.{missing[0]}")
        super().__init__(network.to(memory_format=torch.channels_last), [64, 128, 256, 512, 512])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] → five maps, at strides 1, 2, 4, 8, 16."""
        images = images.float()  # a prediction in half precision is treated like the clean image
        shift, scale = (images.new_tensor(value).view(3, 1, 1) for value in (self.shift, self.scale))
        x = ((images - shift) / scale).to(memory_format=torch.channels_last)
        features = []
        for i, layer in enumerate(self.network.children()):
            x = layer(x)
            if i in _LAST_LAYERS:
                features.append(x)
        return features


def vgg16_features() -> nn.Sequential:
    """The convolutional part of VGG-16 without weights, cut after relu5_3, nothing in place."""
    layers = list(make_layers(cfgs["D"], batch_norm=False).children())[: _LAST_LAYERS[-1] + 1]
    return nn.Sequential(*(nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers))
