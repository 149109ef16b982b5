"""The text-conditional pixel diffusion transformer of PixelGen."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelgen.models.denoiser import Denoiser
from pixelgen.models.layers import (
    Block,
    FlatPatchEmbed,
    RMSNorm,
    SwiGLU,
    TimestepEmbedder,
    attention,
    patches_to_image,
)
from pixelgen.models.rotary import alternating_table, rotate


class TextEmbedder(nn.Module):
    """Text states → tokens of the network's width.

    Args:
        text_dim: width of a text state.
        dim: width of a token.
    """

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(text_dim, dim)
        self.norm = RMSNorm(dim)

    def forward(self, text: Tensor) -> Tensor:
        """(B, L, E) → (B, L, D)."""
        return self.norm(self.proj(text.to(self.proj.weight.dtype)))


class TextAttention(nn.Module):
    """Multi-head self-attention of text, with normalised queries and keys.

    Args:
        dim: width of a token.
        num_heads: number of heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = RMSNorm(dim // num_heads)
        self.k_norm = RMSNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) → (B, L, D); tokens where `mask` (B, L) is false are not looked at."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = attention(self.q_norm(q), self.k_norm(k), v, mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))


class JointAttention(nn.Module):
    """Multi-head attention of the image to itself and to text, with normalised queries and keys.

    Args:
        dim: width of a token.
        num_heads: number of heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_x = nn.Linear(dim, 3 * dim, bias=False)
        self.kv_y = nn.Linear(dim, 2 * dim, bias=False)
        self.q_norm = RMSNorm(dim // num_heads)
        self.k_norm = RMSNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        """Image tokens (B, N, D) → the same; text (B, L, D) has no positions; `mask` (B, N + L) as for text."""
        q, k, v = self.qkv_x(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        k_text, v_text = self.kv_y(text).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        k, v = torch.cat([k, self.k_norm(k_text)], dim=2), torch.cat([v, v_text], dim=2)
        return self.proj(attention(q, k, v, mask=mask).transpose(1, 2).flatten(2))


class PlainFinalLayer(nn.Module):
    """Tokens → pixels of their patches, not modulated.

    Args:
        dim: width of a token.
        patch_size: side of a patch in pixels.
        channels: channels of the image.
    """

    def __init__(self, dim: int, patch_size: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, patch_size * patch_size * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, C·p·p)."""
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6))


class TextJiT(Denoiser):
    """Text-conditional pixel diffusion transformer with x-prediction (PixelGen's text-to-image network).

    Conditions are text states (B, L, E) of a text encoder, padded to L. Image tokens look at each other and at the
    text, which a few blocks of its own refine first. Any image size that divides into patches will do.

    Args:
        input_size: side of the training images in pixels; a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        in_channels: channels of an image.
        hidden_size: width D of a token.
        num_blocks: number of blocks over the image.
        num_groups: attention heads; D / heads must be a multiple of 4.
        num_text_blocks: number of blocks over the text.
        txt_embed_dim: width E of a text state.
        txt_max_length: number L of text states.
        bottleneck_dim: width of the patch embedding's bottleneck.
        mask_padding: look past text states that are all zero, which is what an encoder with `zero_padding` makes of
            padding; as released, padding is looked at.
    """

    def __init__(
        self,
        input_size: int = 512,
        patch_size: int = 16,
        in_channels: int = 3,
        hidden_size: int = 1536,
        num_blocks: int = 16,
        num_groups: int = 24,
        num_text_blocks: int = 4,
        txt_embed_dim: int = 2048,
        txt_max_length: int = 128,
        bottleneck_dim: int = 256,
        mask_padding: bool = False,
    ) -> None:
        super().__init__(input_size, patch_size, in_channels)
        if hidden_size % (4 * num_groups):
            raise ValueError(
                f"hidden size {hidden_size} is not a multiple of 4 x {num_groups} heads, which rotary positions need: "
                "choose another hidden size or number of heads (num_groups)"
            )
        self.hidden_size = hidden_size
        self.head_dim = hidden_size // num_groups
        self.text_shape = (txt_max_length, txt_embed_dim)
        self.mask_padding = mask_padding
        self.x_embedder = FlatPatchEmbed(patch_size, in_channels, hidden_size, bottleneck_dim)
        self.register_buffer("pos_embed", torch.empty(1, (input_size // patch_size) ** 2, hidden_size))
        self.t_embedder = TimestepEmbedder(hidden_size, max_period=10.0)
        self.y_embedder = TextEmbedder(txt_embed_dim, hidden_size)
        self.y_pos_embedding = nn.Parameter(torch.empty(1, txt_max_length, hidden_size))
        self.text_refine_blocks = nn.ModuleList(
            _block(hidden_size, TextAttention(hidden_size, num_groups)) for _ in range(num_text_blocks)
        )
        self.blocks = nn.ModuleList(
            _block(hidden_size, JointAttention(hidden_size, num_groups)) for _ in range(num_blocks)
        )
        self.final_layer = PlainFinalLayer(hidden_size, patch_size, in_channels)
        self.initialise()

    def initialise(self) -> None:
        """Published initialisation: Xavier, N(0, 0.02²) for text positions and time, zero for adaLN and the output."""
        self.draw_weights([self.y_pos_embedding])

    @property
    def last_layer(self) -> nn.Linear:
        """The last linear layer, whose weight the adaptive perceptual weight looks at."""
        return self.final_layer.linear

    def every_block(self) -> list[nn.Module]:
        """Blocks over text and over the image."""
        return [*self.text_refine_blocks, *self.blocks]

    def null_condition(self, condition: Tensor | None) -> Tensor | None:
        """None: the states of the empty prompt are the text encoder's to make."""
        return None

    def forward_with_features(
        self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, layer: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Prediction like `x_t`, and the image tokens (B, N, D) entering block `layer`."""
        rows, columns = self.grid(x_t)
        x = self.x_embedder(x_t) + self.positions(rows, columns)
        c = F.silu(self.t_embedder(t))
        text, mask = self.refine(condition, c)
        if mask is not None:
            mask = torch.cat([mask.new_ones(x.shape[:2]), mask], dim=1)
        trained = self.image_size // self.patch_size
        cos, sin = alternating_table(self.head_dim, rows, columns, trained, x.device)
        features: Tensor | None = None
        for i, block in enumerate(self.blocks):
            if i == layer:
                features = x
            x = self.run_block(block, x, c, text, mask, cos, sin)
        out = self.final_layer(x)
        return patches_to_image(out, rows, columns, self.patch_size, channel_first=True), features

    def refine(self, text: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor | None]:
        """Text tokens (B, L, D) for the image to look at, and which of them (B, L) if padding is masked.

        Args:
            text: text states (B, L, E).
            c: conditioning vector (B, D).

        Raises:
            ValueError: if there are none, or they have another shape.
        """
        assert self.text_shape is not None
        length, width = self.text_shape
        if text is None or text.shape[1:] != (length, width):
            found = "none" if text is None else f"states of shape {tuple(text.shape)}"
            raise ValueError(f"this network needs text states (B, {length}, {width}), not {found}")
        mask = (text != 0).any(-1) if self.mask_padding else None
        if mask is not None:  # some encoders make nothing but padding of the empty prompt
            mask = mask | ~mask.any(-1, keepdim=True)
        y = self.y_embedder(text) + self.y_pos_embedding
        for block in self.text_refine_blocks:
            y = self.run_block(block, y, c, mask)
        return y, mask


def _block(dim: int, attn: nn.Module) -> Block:
    return Block(dim, attn, SwiGLU(dim, 4 * dim, bias=False), nn.Sequential(nn.Linear(dim, 6 * dim)))
