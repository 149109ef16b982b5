"""Small frozen networks with fixed random weights, for runs that are compared over several numbers of processes."""

import torch
from torch import nn

from pixelgen.encoders import FeatureExtractor, FeaturePyramid, PatchEncoder, TextEncoder


def _convolution(channels, size, stride):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Conv2d(3, channels, size, stride)


class Pyramid(FeaturePyramid):
    def __init__(self):
        super().__init__(_convolution(6, 3, 2), [6])

    def forward(self, images):
        return [self.network(images).tanh()]


class Patches(PatchEncoder):
    def __init__(self):
        super().__init__(_convolution(5, 8, 8), 5)
        self.patch_size = 8

    def forward(self, images):
        return self.network(images).tanh().flatten(2).transpose(1, 2)


class Means(FeatureExtractor):
    """Mean of each channel."""

    def __init__(self):
        super().__init__(nn.Identity(), "means", 3)

    def forward(self, images):
        return images.float().mean(dim=(2, 3)) / 255


def words() -> TextEncoder:
    """A tiny text encoder; each prompt is encoded alone, so that batches of any size give the same."""
    from tiny_transformers import tiny_qwen3

    return TextEncoder(str(tiny_qwen3()), max_length=12, dtype="float32", remember=1000)
