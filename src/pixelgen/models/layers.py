"""Layers shared by the denoisers. Parameter names are those of the published checkpoints."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelgen.models.rotary import rotate


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, in float32, times a learned weight.

    Args:
        dim: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as `x`."""
        h = x.float()
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps)
        return (h * self.weight.float()).to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward network: `w3(dropout(silu(a) · b))` with `a, b = w12(x)`.

    Args:
        dim: width of the input and output.
        hidden: width of each of the two halves.
        dropout: probability of dropping a hidden value.
        bias: whether the projections add one.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden, bias)
        self.w3 = nn.Linear(hidden, dim, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(self.dropout(F.silu(a) * b))


class TimestepEmbedder(nn.Module):
    """Time in [0, 1] → 256 sinusoids (cosines first) → Linear-SiLU-Linear.

    Args:
        dim: width of the embedding.
        max_period: longest period of the sinusoids; 10 000 in the class-conditional network, 10 in the text network.
        frequencies: number of sinusoids.
    """

    def __init__(self, dim: int, max_period: float = 10_000.0, frequencies: int = 256) -> None:
        super().__init__()
        first, last = nn.Linear(frequencies, dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        self.max_period = max_period
        self.frequencies = frequencies

    def forward(self, t: Tensor) -> Tensor:
        """(B,) → (B, D)."""
        half = self.frequencies // 2
        k = torch.arange(half, device=t.device, dtype=torch.float32)
        angles = t.float()[:, None] * self.max_period ** (-k / half)
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
        weight = next(self.mlp.parameters())
        return self.mlp(embedding.to(weight.dtype))


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys, and rotary positions if they are given.

    Args:
        dim: width of a token.
        num_heads: number of heads.
        qkv_bias: whether the projection to queries, keys and values adds one.
        attn_drop: dropout of attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, qkv_bias)
        self.q_norm = RMSNorm(dim // num_heads)
        self.k_norm = RMSNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)
        self.attn_drop = attn_drop
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, table: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) → (B, N, D).

        Args:
            x: tokens.
            table: cosines and sines (2, N, head_dim/2).
            mask: false for tokens (B, N) that are not looked at.
        """
        q, k, v = heads(self.qkv(x), 3, self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        out = attention(q, k, v, self.attn_drop if self.training else 0.0, mask)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Transformer block with adaptive layer norm: two gated residuals driven by the conditioning vector.

    Args:
        dim: width of a token.
        attn: called with the modulated tokens and the block's context.
        mlp: feed-forward part.
        modulation: conditioning vector (B, D) → six modulations (B, 6·D).
    """

    def __init__(self, dim: int, attn: nn.Module, mlp: SwiGLU, modulation: nn.Sequential) -> None:
        super().__init__()
        self.norm1 = RMSNorm(dim)
        self.attn = attn
        self.norm2 = RMSNorm(dim)
        self.mlp = mlp
        self.adaLN_modulation = modulation

    def forward(self, x: Tensor, c: Tensor, *context: Tensor | None) -> Tensor:
        """Tokens (B, N, D), conditioning (B, D), and what the attention takes beside tokens → tokens."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, -1)
        x = x + gate_msa.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_msa, scale_msa), *context)
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm's affine part: `x·(1 + scale) + shift`, the same for every token."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def heads(projected: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """A fused projection (B, N, parts·D) → its parts, (B, heads, N, head_dim) each."""
    return projected.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, (B, heads, N, head_dim) each; `mask` (B, keys) is true for keys to look at.

    On CPU the formula is written out: inside a compiled block it is several times faster there than the fused kernel.
    """
    visible = None if mask is None else mask[:, None, None]
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
    products = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if visible is not None:
        products = products.masked_fill(~visible, -torch.inf)
    weights = products.softmax(dim=-1).to(v.dtype)
    return F.dropout(weights, dropout) @ v


def named(**layers: nn.Module) -> nn.Sequential:
    """Layers in sequence, under the names that they have in the published checkpoints."""
    return nn.Sequential(OrderedDict(layers))


def patch_convolutions(patch_size: int, in_channels: int, dim: int, bottleneck: int | None) -> nn.Sequential:
    """Image (B, C, H, W) → a token per patch (B, D, rows, columns), through a bottleneck if it is not None."""
    if bottleneck is None:
        return named(proj1=nn.Conv2d(in_channels, dim, patch_size, patch_size))
    narrow = nn.Conv2d(in_channels, bottleneck, patch_size, patch_size, bias=False)
    return named(proj1=narrow, proj2=nn.Conv2d(bottleneck, dim, 1))


def image_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) → patches row by row, each laid out (channel, row, column): (B, N, C·p·p)."""
    grid = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def patches_to_image(tokens: Tensor, rows: int, columns: int, patch_size: int, channel_first: bool = False) -> Tensor:
    """(B, rows·columns, p·p·C) → (B, C, rows·p, columns·p).

    A token is laid out (row in patch, column in patch, channel), or (channel, row, column) if `channel_first`.
    """
    batch, p = tokens.shape[0], patch_size
    grid = tokens.view(batch, rows, columns, -1, p, p) if channel_first else tokens.view(batch, rows, columns, p, p, -1)
    order = (0, 3, 1, 4, 2, 5) if channel_first else (0, 5, 1, 3, 2, 4)
    return grid.permute(order).reshape(batch, -1, rows * p, columns * p)


def position_embedding(dim: int, rows: int, columns: int) -> Tensor:
    """Fixed sine-cosine embedding (1, rows·columns, D), row by row.

    The first half encodes the column, the second the row; each half is sines, then cosines, with
    `omega_k = 10000^(-k/(D/4))`.
    """
    if dim % 4:
        raise ValueError(f"hidden size {dim} is not divisible by 4, which the position embedding needs")
    omega = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def encode(position: Tensor) -> Tensor:
        angles = position.flatten()[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    return torch.cat([encode(column), encode(row)], dim=1).float().unsqueeze(0)


def xavier_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero bias for a Linear, or a patch convolution seen as a matrix."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
