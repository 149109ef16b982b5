"""What every denoiser offers to the trainer and the samplers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pixelgen.models.layers import RMSNorm, TimestepEmbedder, position_embedding, xavier_linear


class Denoiser(nn.Module):
    """Predicts the clean image from a noisy one (x-prediction).

    `forward(x_t, t, condition)` takes noisy images (B, C, H, W), times (B,) in [0, 1] (0 is noise) and the condition,
    and returns the predicted clean images, shaped like `x_t`.

    Subclasses set `blocks`, `hidden_size`, `pos_embed` and `t_embedder`, and implement `initialise`,
    `forward_with_features`, `null_condition`, `last_layer`. Those whose conditions are text states (B, L, E) set
    `text_shape` to (L, E); their null condition is text too, and not theirs to know.

    Args:
        image_size: side of the training images in pixels.
        patch_size: side of a patch in pixels; must divide the image size.
        in_channels: channels of an image.
        num_classes: number of classes, or None for an unconditional network.
    """

    blocks: nn.ModuleList
    hidden_size: int
    pos_embed: Tensor
    t_embedder: TimestepEmbedder
    text_shape: tuple[int, int] | None = None
    mask_padding = False

    def __init__(self, image_size: int, patch_size: int, in_channels: int = 3, num_classes: int | None = None) -> None:
        super().__init__()
        if image_size <= 0 or patch_size <= 0 or image_size % patch_size:
            raise ValueError(
                f"image size {image_size} is not divisible by patch size {patch_size}: "
                f"choose an image size that is a multiple of {patch_size}, or another patch size"
            )
        self.image_size = image_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.checkpoint_blocks = False

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predicted clean images, shaped like `x_t`."""
        return self.forward_with_features(x_t, t, condition)[0]

    def forward_with_features(
        self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, layer: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Prediction, and the patch tokens (B, N, D) *entering* block `layer` (None if `layer` is None)."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Draw all weights, and fill all buffers, anew; called after the network was built on the meta device."""
        raise NotImplementedError

    def draw_weights(self, small: Iterable[Tensor]) -> None:
        """Published initialisation of all weights, and the position embedding.

        Xavier-uniform linear layers; N(0, 0.02²) for the time embedding and `small`; zero for adaLN, the last layer
        and every bias.
        """
        self.apply(xavier_linear)
        for module in self.modules():
            if isinstance(module, RMSNorm):
                nn.init.ones_(module.weight)
        size = self.image_size // self.patch_size
        self.pos_embed.copy_(position_embedding(self.hidden_size, size, size))
        for weight in (*(w for w in self.t_embedder.parameters() if w.ndim > 1), *small):
            nn.init.normal_(weight, std=0.02)
        for name, weight in self.named_parameters():
            if "adaLN_modulation" in name or name == "final_layer.linear.weight":
                nn.init.zeros_(weight)

    @property
    def last_layer(self) -> nn.Linear:
        """The last linear layer, whose weight the adaptive perceptual weight looks at."""
        raise NotImplementedError

    def null_condition(self, condition: Tensor | None) -> Tensor | None:
        """The condition that stands for "no condition", shaped like `condition`."""
        raise NotImplementedError

    def drop_condition(self, condition: Tensor | None, drop: Tensor, null: Tensor | None = None) -> Tensor | None:
        """Replace the condition by the null condition, or `null` if given, where `drop` (B,) is true."""
        null = self.null_condition(condition) if null is None else null
        if condition is None or null is None:
            return None
        return torch.where(drop.view(-1, *[1] * (condition.ndim - 1)), null, condition)

    def require(self, name: str, option: str) -> Any:
        """An attribute that an option of training needs beyond `forward`."""
        return getattr(self, name)

    def every_block(self) -> list[nn.Module]:
        """What is compiled, recomputed and split over processes one by one: `blocks`, and others a subclass has."""
        return list(self.blocks)

    def compile_blocks(self, dynamic: bool | None = None) -> None:
        """Compile every block on its own. Names in checkpoints stay as they are.

        Args:
            dynamic: whether the batch size may vary; None: once it does.
        """
        for block in self.every_block():
            block.compile(dynamic=dynamic)

    def run_block(self, block: nn.Module, *args: Tensor | None) -> Tensor:
        """Call a block, recomputing its activations in the backward pass if `checkpoint_blocks` is set."""
        if self.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of an image batch.

        Raises:
            ValueError: if its sides are not multiples of the patch size.
        """
        height, width = x.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images of {height}x{width} pixels do not divide into patches of {self.patch_size}: "
                f"choose multiples of {self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding of a grid: the stored one for the training size, else one computed and remembered."""
        size = self.image_size // self.patch_size
        if (rows, columns) == (size, size):
            return self.pos_embed
        width, stored = self.pos_embed.shape[-1], self.pos_embed
        return _positions(width, rows, columns, stored.device, stored.dtype)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _positions(width: int, rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Remembered, since computing it takes longer than a step of sampling; must not be changed in place."""
    return position_embedding(width, rows, columns).to(device, dtype)
