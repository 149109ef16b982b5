"""Distances between images in the features of a frozen network: LPIPS and its relatives, for local texture."""

from collections.abc import Sequence
from importlib.resources import files
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelgen.checks import checked
from pixelgen.encoders import VGG16, FeaturePyramid, PatchEncoder
from pixelgen.losses.term import Prediction, Term
from pixelgen.models import Denoiser


class PerceptualLoss(nn.Module, Term):
    """Compares two images by the feature maps of a frozen network, on samples that pass the noise gate.

    Args:
        encoder: the frozen network.
        weight: weight in the objective.
    """

    name = "perceptual"
    gated = True
    perceptual = True
    patch_size = 16  # the denoiser's, for losses that prepare images by it

    @checked()
    def __init__(self, encoder: FeaturePyramid, weight: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.weight = weight

    def connect(self, denoiser: Denoiser, encoder: PatchEncoder | None) -> None:
        """Take over the denoiser's patch size."""
        self.patch_size = denoiser.patch_size

    def compute(self, p: Prediction) -> Tensor:
        """Distance of each sample (B,)."""
        return self(p.x_hat, p.x)

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] → (B,), float32; gradients reach `x_hat` only."""
        x_hat, x = self.prepare(x_hat.float()), self.prepare(x.float())
        with torch.no_grad():
            target = self.encoder(x)
        return self.compare(self.encoder(x_hat), target)

    def prepare(self, images: Tensor) -> Tensor:
        """What happens to images before the network sees them."""
        return images

    def compare(self, features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Feature maps of the prediction and of the clean image → (B,)."""
        raise NotImplementedError


class LPIPS(PerceptualLoss):
    """LPIPS with VGG-16 and the v0.1 linear heads of the `lpips` package (arXiv 1801.03924).

    For a denoiser with patches of p other than 16 pixels, images are resized to `H·16/p` first, as released.

    Args:
        encoder: VGG-16 with its ImageNet weights.
        weight: weight in the objective.
    """

    name = "lpips"

    def __init__(self, encoder: VGG16, weight: float = 0.1) -> None:
        super().__init__(encoder, weight)
        for i, head in enumerate(lpips_heads()):
            self.register_buffer(f"head{i}", head, persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Resize (bilinear, antialiased) if the patch size is not 16."""
        if self.patch_size == 16:
            return images
        size = [side * 16 // self.patch_size for side in images.shape[-2:]]
        return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)

    def compare(self, features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Sum over depths of the mean over positions of the weighted squared difference of unit features."""
        heads = self.buffers(recurse=False)
        distances = [unit_distance(f, g, w) for f, g, w in zip(features, target, heads, strict=True)]
        return torch.stack(distances).sum(0)


class FeatureDistance(PerceptualLoss):
    """LPIPS' distance without learned heads, on the feature pyramid of any backbone; averaged over depths.

    Args:
        encoder: the frozen network, for instance a timm `Backbone`.
        weight: weight in the objective.
    """

    name = "features"

    def compare(self, features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Mean over depths and positions of the squared difference of unit features."""
        return torch.stack([unit_distance(f, g) for f, g in zip(features, target, strict=True)]).mean(0)


def unit_distance(f: Tensor, g: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over positions of `Σ_c w_c·(f̂_c - ĝ_c)²`, `f̂` and `ĝ` of unit length over channels; (B,), float32."""
    difference = (unit_length(f) - unit_length(g)).square()
    if weight is not None:
        difference = difference * weight.view(-1, 1, 1)
    return difference.sum(1).mean((1, 2))


def unit_length(features: Tensor, eps: float = 1e-10) -> Tensor:
    """Divide by the length over channels, in float32; `eps` inside the root keeps gradients at zero features finite."""
    features = features.float()
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + eps)


def lpips_heads() -> list[Tensor]:
    """The v0.1 linear heads of VGG-16: one non-negative weight per channel, at five depths."""
    file = files("lpips").joinpath("weights/v0.1/vgg.pth")
    with file.open("rb") as stream:
        state = cast(dict[str, Tensor], torch.load(stream, map_location="cpu", weights_only=True))
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(5)]
