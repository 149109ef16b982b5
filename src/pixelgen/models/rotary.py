"""Rotary position embedding of the class-conditional network: half of each head by row, half by column."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def rotary_table(head_dim: int, rows: int, columns: int, unrotated: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (unrotated + rows·columns, head_dim/2), one angle per pair of head dimensions.

    `freq_k = 10000^(-2k/(head_dim/2))` for k < head_dim/4; positions are 0 … n-1 on each axis. The first `unrotated`
    tokens get angle 0. Tables are remembered, so they must not be changed in place.
    """
    frequency = 10_000.0 ** (-2 * torch.arange(head_dim // 4, dtype=torch.float64, device="cpu") / (head_dim // 2))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64, device="cpu"),
        torch.arange(columns, dtype=torch.float64, device="cpu"),
        indexing="ij",
    )
    angles = torch.cat([row.flatten()[:, None] * frequency, column.flatten()[:, None] * frequency], dim=1)
    angles = torch.cat([angles.new_zeros(unrotated, head_dim // 2), angles])
    return angles.cos().float().to(device), angles.sin().float().to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs: `(a, b) → (a·cos - b·sin, b·cos + a·sin)`; `x` is (B, heads, N, head_dim)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)
