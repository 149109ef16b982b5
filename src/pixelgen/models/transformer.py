"""What the two published networks share: patches, their positions, sizes and the initialisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pixelgen.models.denoiser import Denoiser
from pixelgen.models.layers import RMSNorm, TimestepEmbedder, position_embedding, xavier_linear
from pixelgen.models.rotary import remembered


class PatchTransformer(Denoiser):
    """A denoiser that embeds patches as tokens, adds their positions, and runs them through blocks.

    Subclasses set `x_embedder`, `t_embedder`, `blocks` and `final_layer`, and implement `forward_with_features`.

    Args:
        image_size: side of the training images in pixels.
        patch_size: side of a patch in pixels.
        in_channels: channels of an image.
        num_classes: number of classes, or None.
        hidden_size: width D of a token.
        num_heads: attention heads; D / heads must be a multiple of 4.
    """

    blocks: nn.ModuleList
    final_layer: Any
    pos_embed: Tensor
    t_embedder: TimestepEmbedder

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        in_channels: int,
        num_classes: int | None,
        hidden_size: int,
        num_heads: int,
    ) -> None:
        super().__init__(image_size, patch_size, in_channels, num_classes)
        if hidden_size % (4 * num_heads):
            raise ValueError(
                f"hidden size {hidden_size} is not a multiple of 4 x {num_heads} heads, which rotary positions need: "
                "choose another hidden size or number of heads"
            )
        self.hidden_size = hidden_size
        self.head_dim = hidden_size // num_heads
        self.register_buffer("pos_embed", torch.empty(1, (image_size // patch_size) ** 2, hidden_size))

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predicted clean images, shaped like `x_t`."""
        return self.forward_with_features(x_t, t, condition)[0]

    @property
    def last_layer(self) -> nn.Linear:
        """The last linear layer, whose weight the adaptive perceptual weight looks at."""
        return self.final_layer.linear

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
        return _positions(self.hidden_size, rows, columns, self.pos_embed.device, self.pos_embed.dtype)


@remembered
def _positions(width: int, rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Remembered, since computing it takes longer than a step of sampling; must not be changed in place."""
    return position_embedding(width, rows, columns).to(device, dtype)
