"""Rotary position embedding by row and column: halves of each head, or every other pair."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def rotary_table(head_dim: int, rows: int, columns: int, unrotated: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the class network, each (unrotated + rows·columns, head_dim/2), one angle per pair.

    The first half of a head turns by row, the second by column; positions are 0 … n-1 on each axis. The first
    `unrotated` tokens get angle 0. Tables are remembered, so they must not be changed in place.
    """
    angles = torch.cat(_angles(head_dim, rows, columns), dim=1)
    angles = torch.cat([angles.new_zeros(unrotated, head_dim // 2), angles])
    return angles.cos().float().to(device), angles.sin().float().to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def alternating_table(
    head_dim: int, rows: int, columns: int, trained: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the text network, each (rows·columns, head_dim/2), one angle per pair.

    Pairs turn by column, row, column, row, … Neighbours are n/(n-1) apart in a square of n, as released; in any other
    shape n is `trained`, the side of the training grid. Tables are remembered, so they must not be changed in place.
    """
    side = rows if rows == columns else trained
    by_row, by_column = _angles(head_dim, rows, columns, side / max(side - 1, 1))
    angles = torch.stack([by_column, by_row], dim=-1).flatten(1)
    return angles.cos().float().to(device), angles.sin().float().to(device)


def _angles(head_dim: int, rows: int, columns: int, spacing: float = 1.0) -> tuple[Tensor, Tensor]:
    """Angles by row and by column, each (rows·columns, head_dim/4): position times `freq_k = 10000^(-4k/head_dim)`."""
    frequency = 10_000.0 ** (-4 * torch.arange(head_dim // 4, dtype=torch.float64, device="cpu") / head_dim)
    row, column = torch.meshgrid(
        spacing * torch.arange(rows, dtype=torch.float64, device="cpu"),
        spacing * torch.arange(columns, dtype=torch.float64, device="cpu"),
        indexing="ij",
    )
    return row.flatten()[:, None] * frequency, column.flatten()[:, None] * frequency


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs: `(a, b) → (a·cos - b·sin, b·cos + a·sin)`; `x` is (B, heads, N, head_dim)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)
