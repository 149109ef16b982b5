"""Tokens of a frozen vision transformer, DINOv2 above all, with the published pre-processing."""

import copy
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from pixelgen.checks import COUNT, FROM_ZERO, checked
from pixelgen.encoders.frozen import IMAGENET_MEAN, IMAGENET_STD, FeatureExtractor, PatchEncoder, normalise
from pixelgen.encoders.hub import load_timm, tensors_sha256

VIT_L14 = "vit_large_patch14_dinov2.lvd142m"


class VisionTransformerPatches(PatchEncoder):
    """Normed patch tokens of one block of a frozen vision transformer: one token per patch of the denoiser.

    Images are normalised with ImageNet's statistics and resized (bicubic, no antialias) from H to `q·H/patch_size`,
    q the transformer's own patch size: with DINOv2 and patches of 16, 256 px become 224 px and 16×16 tokens. The
    position embedding is resampled as DINOv2 does it (bicubic, no antialias, scale factor `(n + 0.1)/n_native`).

    Args:
        network: timm vision transformer with a class token and an absolute position embedding; a copy of it is used.
        layer: block whose output is used; the copy has no blocks behind it.
        patch_size: the denoiser's patch size in pixels; image sides must be multiples of it.
    """

    @checked(layer=FROM_ZERO, patch_size=COUNT)
    def __init__(self, network: VisionTransformer, layer: int = 11, patch_size: int = 16) -> None:
        if not 0 <= layer < len(network.blocks):
            raise ValueError(f"the encoder has blocks 0 to {len(network.blocks) - 1}: there is no layer {layer}")
        _refuse_registers(network)
        network = copy.deepcopy(network)
        network.blocks = network.blocks[: layer + 1]
        super().__init__(network, network.embed_dim)
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] → tokens (B, N, num_features), row by row."""
        sides = images.shape[-2:]
        if any(side % self.patch_size for side in sides):
            raise ValueError(
                f"the DINO loss needs image sides that are multiples of {self.patch_size}, not {sides[0]}x{sides[1]}"
            )
        rows, columns = (side // self.patch_size for side in sides)
        height, width = self.network.patch_embed.patch_size
        x = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
        x = F.interpolate(x, (rows * height, columns * width), mode="bicubic", antialias=False, align_corners=False)
        return _tokens(self.network, x, resample_positions(self.network.pos_embed, rows, columns))[:, 1:]


class DINOv2Features(FeatureExtractor):
    """Class tokens of DINOv2, for FD-DINOv2 (arXiv:2306.04675): the distance that agrees best with human judgement.

    Images are resized to `size` (bicubic, antialiased) and normalised with ImageNet's statistics, as EDM2 does it.

    Args:
        weights: a local weights file of that timm model; null downloads it once from the hub.
        model: name of the timm model; FD-DINOv2 is defined with ViT-L/14.
        size: side in pixels that images are resized to, a multiple of the patch size.
        sha256: expected hash of the local file; null skips the check.
    """

    @checked(size=COUNT)
    def __init__(
        self, weights: str | Path | None = None, model: str = VIT_L14, size: int = 224, sha256: str | None = None
    ) -> None:
        network, found = load_timm(model, weights, sha256, num_classes=0)
        _refuse_registers(network)
        patch = network.patch_embed.patch_size[0]
        if size % patch:
            raise ValueError(f"size {size} is no multiple of the patch size {patch}")
        super().__init__(network, f"{model}-{size}px", network.embed_dim, found or tensors_sha256(network.state_dict()))
        self.size, self.standard = size, (model, size) == (VIT_L14, 224)
        network.pos_embed.data = resample_positions(network.pos_embed.data, size // patch, size // patch)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) → normed class tokens (B, num_features), float32."""
        x = F.interpolate(images.float(), (self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        x = normalise(x / 127.5 - 1, IMAGENET_MEAN, IMAGENET_STD)
        with torch.no_grad():
            return _tokens(self.network, x, self.network.pos_embed)[:, 0]

    def metric(self, name: str) -> str:
        """`fd_dinov2` for the distance of ViT-L/14 at 224 px."""
        return "fd_dinov2" if self.standard and name == "frechet" else super().metric(name)


@checked()
def dinov2(
    weights: str | Path | None = None,
    model: str = "vit_base_patch14_dinov2.lvd142m",
    layer: int = 11,
    patch_size: int = 16,
    sha256: str | None = None,
) -> VisionTransformerPatches:
    """DINOv2 ViT-B/14 as timm holds it: the published encoder of P-DINO and REPA.

    Args:
        weights: a local weights file of that timm model; null downloads it once from the hub.
        model: name of the timm model.
        layer: block whose output is used; 11 is the last one of ViT-B.
        patch_size: the denoiser's patch size in pixels.
        sha256: expected hash of the local file; null skips the check.
    """
    network, _ = load_timm(model, weights, sha256, num_classes=0)
    return VisionTransformerPatches(network, layer, patch_size)


def resample_positions(pos_embed: Tensor, rows: int, columns: int) -> Tensor:
    """Resample a position embedding (1, 1 + n·n, D) to another grid by DINOv2's own rule."""
    native = round((pos_embed.shape[1] - 1) ** 0.5)
    if (rows, columns) == (native, native):
        return pos_embed
    grid = pos_embed[:, 1:].unflatten(1, (native, native)).permute(0, 3, 1, 2).float()
    scale = ((rows + 0.1) / native, (columns + 0.1) / native)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=False)
    assert grid.shape[-2:] == (rows, columns)
    return torch.cat([pos_embed[:, :1], grid.flatten(2).transpose(1, 2).to(pos_embed)], dim=1)


def _tokens(network: Any, x: Tensor, positions: Tensor) -> Tensor:
    """Normalised images (B, 3, H, W) → normed tokens (B, 1 + N, D), the class token first."""
    x = network.patch_embed.proj(x).flatten(2).transpose(1, 2)
    x = torch.cat([network.cls_token.expand(len(x), -1, -1), x], dim=1)
    return network.norm(network.blocks(network.norm_pre(x + positions)))


def _refuse_registers(network: VisionTransformer) -> None:
    if network.num_prefix_tokens != 1:
        raise ValueError("the encoder has register tokens, which are not supported: choose one without")
