"""What the two published networks share: patches, their positions, sizes and the initialisation."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pixelgen.models.denoiser import Denoiser
from pixelgen.models.layers import RMSNorm, TimestepEmbedder
from pixelgen.models.rotary import position_embedding, remembered


class PatchTransformer(Denoiser):
    """A denoiser that embeds patches as tokens, adds their positions, and runs them through blocks.

    Subclasses set `t_embedder`, `blocks` and `final_layer`, and implement `forward_with_features`.
    """

    blocks: nn.ModuleList
    final_layer: Any
    pos_embed: Tensor
    t_embedder: TimestepEmbedder

    def __init__(self, *sizes: Any, hidden_size: int, num_heads: int) -> None:
        super().__init__(*sizes)
        if hidden_size % (4 * num_heads):
            raise ValueError(
                f"hidden size {hidden_size} is not a multiple of 4 x {num_heads} heads, which rotary positions need: "
                "choose another hidden size or number of heads"
            )
        self.hidden_size, self.head_dim = hidden_size, hidden_size // num_heads
        self.side = self.image_size // self.patch_size  # of the training images, in patches
        self.register_buffer("pos_embed", torch.empty(1, self.side**2, hidden_size))

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predicted clean images, shaped like `x_t`."""
        return self.forward_with_features(x_t, t, condition)[0]

    @property
    def last_layer(self) -> nn.Linear:
        """The last linear layer, whose weight the adaptive perceptual weight looks at."""
        return self.final_layer.linear

    def draw_weights(self, small: Iterable[Tensor]) -> None:
        """Published initialisation of all weights, and the position embedding; `small` weights are N(0, 0.02²)."""
        self.apply(_draw_layer)
        self.pos_embed.copy_(position_embedding(self.hidden_size, self.side, self.side))
        for weight in (*(w for w in self.t_embedder.parameters() if w.ndim > 1), *small):
            nn.init.normal_(weight, std=0.02)
        for name, weight in self.named_parameters():
            if "adaLN_modulation" in name or name == "final_layer.linear.weight":
                nn.init.zeros_(weight)

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of an image batch, whose sides must be multiples of the patch size."""
        height, width = x.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images of {height}x{width} pixels do not divide into patches of {self.patch_size}: "
                f"choose multiples of {self.patch_size}"
            )
        return height // self.patch_size, width // self.patch_size

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding of a grid: the stored one for the training size, else one computed and remembered."""
        if (rows, columns) == (self.side, self.side):
            return self.pos_embed
        return _positions(self.hidden_size, rows, columns, self.pos_embed.device, self.pos_embed.dtype)


def _draw_layer(module: nn.Module) -> None:
    """Xavier-uniform weights and zero bias for a Linear, or a patch convolution seen as a matrix; ones for a norm."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, RMSNorm):
        nn.init.ones_(module.weight)


@remembered
def _positions(width: int, rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Remembered, since computing it takes longer than a step of sampling."""
    return position_embedding(width, rows, columns).to(device, dtype)
