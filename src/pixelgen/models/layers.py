"""Layers of the denoisers, with the parameter names of the published checkpoints; `dim` is the width D of a token."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelgen.models.rotary import rotate


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, in float32, times a learned weight."""

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
    """Gated feed-forward network: `w3(dropout(silu(a) · b))` with `a, b = w12(x)`, `hidden` wide each."""

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

    The longest period is 10 000 in the class-conditional network, 10 in the text network.
    """

    def __init__(self, dim: int, max_period: float = 10_000.0) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.max_period = max_period

    def forward(self, t: Tensor) -> Tensor:
        """(B,) → (B, D)."""
        k = torch.arange(128, device=t.device, dtype=torch.float32)
        angles = t.float()[:, None] * self.max_period ** (-k / 128)
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
        weight = next(self.mlp.parameters())
        return self.mlp(embedding.to(weight.dtype))


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys, and rotary positions if they are given."""

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
        """(B, N, D) → (B, N, D); rotary `table` (2, N, head_dim/2); `mask` (B, N) is false for tokens to ignore."""
        q, k, v = heads(self.qkv(x), 3, self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        out = attention(q, k, v, self.attn_drop if self.training else 0.0, mask)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Transformer block with adaptive layer norm: two gated residuals driven by the conditioning vector.

    `attn` is called with the modulated tokens and the block's context; `modulation` maps (B, D) to (B, 6·D).
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


class FinalLayer(nn.Module):
    """Tokens → pixels of their patches, modulated by the conditioning vector."""

    def __init__(self, dim: int, pixels: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(dim)
        self.linear = nn.Linear(dim, pixels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, N, D), (B, D) → (B, N, pixels)."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def named(**layers: nn.Module) -> nn.Sequential:
    """Layers in sequence, under the names that they have in the published checkpoints."""
    return nn.Sequential(OrderedDict(layers))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm's affine part: `x·(1 + scale) + shift`, the same for every token."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def heads(projected: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """A fused projection (B, N, parts·D) → its parts, (B, heads, N, head_dim) each."""
    return projected.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, (B, heads, N, head_dim) each; `mask` (B, keys) is false for keys to ignore."""
    mask = None if mask is None else mask[:, None, None]
    if q.device.type != "cpu":  # on a CPU the formula, if compiled, is several times faster than the fused kernel
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    products = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        products = products.masked_fill(~mask, -torch.inf)
    weights = products.softmax(dim=-1).to(v.dtype)
    return F.dropout(weights, dropout) @ v


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
