"""Any timm backbone as a frozen encoder: feature pyramid, patch tokens, or pooled features."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pixelgen.checks import COUNT, FROM_ZERO, POSITIVE, checked
from pixelgen.encoders.frozen import FeatureExtractor, FeaturePyramid, PatchEncoder, normalise
from pixelgen.encoders.hub import PACKAGED, load_timm


class Backbone(FeaturePyramid):
    """Feature maps of a timm backbone, its own normalisation included.

    Args:
        model: name of a timm model.
        levels: which feature maps to use, 0 the finest; what lies behind the last one is removed.
        upsample: factor by which images are enlarged first (bilinear), so that small ones pass through more layers.
        weights: local weights file; null takes those of `tf_efficientnet_lite0` from its package (extra `demo`) and
            downloads those of any other model from the hub.
        weights_sha256: expected hash of the local file; null skips the check.
    """

    @checked(levels=FROM_ZERO, upsample=POSITIVE)
    def __init__(
        self,
        model: str = PACKAGED,
        levels: tuple[int, ...] = (0, 1, 2, 3),
        upsample: float = 1.0,
        weights: str | Path | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        network, found = load_timm(model, weights, weights_sha256)
        channels = [level["num_chs"] for level in network.feature_info]
        if not levels or not all(0 <= level < len(channels) for level in levels):
            raise ValueError(f"{model} has feature levels 0 to {len(channels) - 1}, not all of {list(levels)}")
        network.prune_intermediate_layers(list(levels), prune_head=True)
        super().__init__(network.to(memory_format=torch.channels_last), [channels[level] for level in levels])
        self.mean, self.std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
        self.weights_sha256, self.levels, self.upsample = found, list(levels), upsample

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] → one map (B, C, h, w) per level."""
        images = images.float()
        if self.upsample != 1:
            images = F.interpolate(images, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        images = normalise(images, self.mean, self.std).to(memory_format=torch.channels_last)
        return self.network.forward_intermediates(images, indices=self.levels, stop_early=True, intermediates_only=True)


class BackbonePatches(PatchEncoder):
    """One feature map of a timm backbone as patch tokens, so that P-DINO and REPA run with any backbone.

    Args:
        model: name of a timm model.
        level: which feature map; its stride, divided by `upsample`, should be the denoiser's patch size.
        upsample: factor by which images are enlarged first (bilinear).
        weights: local weights file, or null as for `Backbone`.
        weights_sha256: expected hash of the local file; null skips the check.
    """

    @checked(level=FROM_ZERO, upsample=POSITIVE)
    def __init__(
        self,
        model: str = PACKAGED,
        level: int = 2,
        upsample: float = 1.0,
        weights: str | Path | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        pyramid = Backbone(model, (level,), upsample, weights, weights_sha256)
        super().__init__(pyramid, pyramid.channels[0])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] → tokens (B, N, C), row by row."""
        (features,) = self.network(images)
        return features.flatten(2).transpose(1, 2)


class BackboneFeatures(FeatureExtractor):
    """Average-pooled features of a timm backbone, for Fréchet distances (not FID: that is Inception's).

    Args:
        model: name of a timm model.
        level: which feature map is pooled.
        size: side in pixels to which images are resized first (bilinear, antialiased).
        weights: local weights file, or null as for `Backbone`.
        weights_sha256: expected hash of the local file; null skips the check.
    """

    @checked(level=FROM_ZERO, size=COUNT)
    def __init__(
        self,
        model: str = PACKAGED,
        level: int = 4,
        size: int = 64,
        weights: str | Path | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        pyramid = Backbone(model, (level,), weights=weights, weights_sha256=weights_sha256)
        super().__init__(pyramid, f"{model}-level{level}-{size}px", pyramid.channels[0], pyramid.weights_sha256)
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) → features (B, C), float32."""
        x = images.float() / 127.5 - 1
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        (features,) = self.network(x)
        return features.float().mean(dim=(2, 3))
