"""The text-conditional pixel diffusion transformer of PixelGen."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelgen.checks import COUNT, FROM_ZERO, checked
from pixelgen.models.layers import (
    Attention,
    Block,
    RMSNorm,
    SwiGLU,
    TimestepEmbedder,
    attention,
    heads,
    image_to_patches,
    named,
    patches_to_image,
)
from pixelgen.models.rotary import alternating_table, rotate
from pixelgen.models.transformer import PatchTransformer


class JointAttention(nn.Module):
    """Multi-head attention of the image to itself and to text, with normalised queries and keys."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_x = nn.Linear(dim, 3 * dim, bias=False)
        self.kv_y = nn.Linear(dim, 2 * dim, bias=False)
        self.q_norm = RMSNorm(dim // num_heads)
        self.k_norm = RMSNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None, table: Tensor) -> Tensor:
        """(B, N, D), text (B, L, D) → (B, N, D); `mask` (B, N + L) is false for tokens to ignore."""
        q, k, v = heads(self.qkv_x(x), 3, self.num_heads)
        k_text, v_text = heads(self.kv_y(text), 2, self.num_heads)
        q, k = rotate(self.q_norm(q), table), rotate(self.k_norm(k), table)
        k, v = torch.cat([k, self.k_norm(k_text)], dim=2), torch.cat([v, v_text], dim=2)
        return self.proj(attention(q, k, v, mask=mask).transpose(1, 2).flatten(2))


class TextJiT(PatchTransformer):
    """Text-conditional pixel diffusion transformer with x-prediction (PixelGen's text-to-image network).

    Conditions are text embeddings (B, L, E) of a text encoder, padded to L. Image tokens look at each other and at the
    text, which a few blocks of its own refine first. Any image size that divides into patches will do.

    Args:
        input_size: side of the training images in pixels; a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        in_channels: channels of an image.
        hidden_size: width D of a token.
        depth: number of blocks over the image.
        num_heads: attention heads; D / heads must be a multiple of 4.
        text_depth: number of blocks over the text.
        text_dim: width E of a text embedding.
        text_length: number L of text embeddings.
        bottleneck_dim: width of the patch embedding's bottleneck.
        mask_padding: look past text embeddings that are all zero, which is what an encoder with `zero_padding` makes
            of padding; as released, padding is looked at.
    """

    text_shape: tuple[int, int]

    @checked(
        **dict.fromkeys(("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads"), COUNT),
        **dict.fromkeys(("text_dim", "text_length", "bottleneck_dim"), COUNT),
        text_depth=FROM_ZERO,
    )
    def __init__(
        self,
        input_size: int = 512,
        patch_size: int = 16,
        in_channels: int = 3,
        hidden_size: int = 1536,
        depth: int = 16,
        num_heads: int = 24,
        text_depth: int = 4,
        text_dim: int = 2048,
        text_length: int = 128,
        bottleneck_dim: int = 256,
        mask_padding: bool = False,
    ) -> None:
        super().__init__(input_size, patch_size, in_channels, hidden_size=hidden_size, num_heads=num_heads)
        self.text_shape = (text_length, text_dim)
        self.mask_padding = mask_padding
        pixels = patch_size**2 * in_channels
        narrow = nn.Linear(pixels, bottleneck_dim, bias=False)
        self.x_embedder = named(proj1=narrow, proj2=nn.Linear(bottleneck_dim, hidden_size))
        self.t_embedder = TimestepEmbedder(hidden_size, max_period=10.0)
        self.y_embedder = named(proj=nn.Linear(text_dim, hidden_size), norm=RMSNorm(hidden_size))
        self.y_pos_embedding = nn.Parameter(torch.empty(1, text_length, hidden_size))
        self.text_refine_blocks = nn.ModuleList(
            _block(hidden_size, Attention(hidden_size, num_heads, qkv_bias=False)) for _ in range(text_depth)
        )
        self.blocks = nn.ModuleList(_block(hidden_size, JointAttention(hidden_size, num_heads)) for _ in range(depth))
        norm = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.final_layer = named(norm=norm, linear=nn.Linear(hidden_size, pixels))
        self.initialise()

    def initialise(self) -> None:
        """Published initialisation: Xavier, N(0, 0.02²) for text positions and time, zero for adaLN and the output."""
        self.draw_weights([self.y_pos_embedding])

    def every_block(self) -> list[nn.Module]:
        """Blocks over text and over the image."""
        return [*self.text_refine_blocks, *self.blocks]

    def forward_with_features(
        self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, layer: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Prediction like `x_t`, and the image tokens (B, N, D) entering block `layer`."""
        rows, columns = self.grid(x_t)
        x = self.x_embedder(image_to_patches(x_t, self.patch_size)) + self.positions(rows, columns)
        c = F.silu(self.t_embedder(t))
        text, mask = self.refine(condition, c)
        if mask is not None:
            mask = torch.cat([mask.new_ones(x.shape[:2]), mask], dim=1)
        table = alternating_table(self.head_dim, rows, columns, self.side, x.device)
        features: Tensor | None = None
        for i, block in enumerate(self.blocks):
            if i == layer:
                features = x
            x = self.run_block(block, x, c, text, mask, table)
        out = self.final_layer(x)
        return patches_to_image(out, rows, columns, self.patch_size, channel_first=True), features

    def refine(self, text: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor | None]:
        """Text tokens (B, L, D) of embeddings (B, L, E), and which of them to look at (B, L) if padding is masked."""
        length, width = self.text_shape
        if text is None or text.shape[1:] != (length, width):
            found = "none" if text is None else f"states of shape {tuple(text.shape)}"
            raise ValueError(f"this network needs text states (B, {length}, {width}), not {found}")
        mask = (text != 0).any(-1) if self.mask_padding else None
        if mask is not None:  # some encoders make nothing but padding of the empty prompt
            mask = mask | ~mask.any(-1, keepdim=True)
        y = self.y_embedder(text.to(self.y_pos_embedding.dtype)) + self.y_pos_embedding
        for block in self.text_refine_blocks:
            y = self.run_block(block, y, c, None, mask)
        return y, mask


def _block(dim: int, attn: nn.Module) -> Block:
    return Block(dim, attn, SwiGLU(dim, 4 * dim, bias=False), nn.Sequential(nn.Linear(dim, 6 * dim)))
