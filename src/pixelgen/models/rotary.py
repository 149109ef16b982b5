"""Positions of patches: a fixed embedding that is added to tokens, and rotary tables for attention."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def remembered(compute: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Remember what a function makes of plain values, fit for training even if first asked for in inference mode.

    While `torch.export` and its relatives trace a network, tensors are fake: nothing is remembered then. What is
    remembered must not be changed in place.
    """
    cached: Any = lru_cache(maxsize=64)(torch.inference_mode(False)(compute))

    @wraps(compute)
    def recall(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        real = type(torch.empty(0)) is Tensor
        return cached(*args, **kwargs) if real else compute(*args, **kwargs)

    return recall


def position_embedding(dim: int, rows: int, columns: int) -> Tensor:
    """Fixed sine-cosine embedding (1, rows·columns, D), row by row.

    The first half encodes the column, the second the row; each half is sines, then cosines.
    """
    row, column = _angles(dim, rows, columns)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1).float().unsqueeze(0)


@remembered
def rotary_table(head_dim: int, rows: int, columns: int, unrotated: int, device: torch.device) -> Tensor:
    """Cosines and sines of the class network (2, unrotated + rows·columns, head_dim/2), one angle per pair.

    The first half of a head turns by row, the second by column; the first `unrotated` tokens get angle 0.
    """
    angles = torch.cat(_angles(head_dim, rows, columns), dim=1)
    angles = torch.cat([angles.new_zeros(unrotated, head_dim // 2), angles])
    return torch.stack([angles.cos(), angles.sin()]).float().to(device)


@remembered
def alternating_table(head_dim: int, rows: int, columns: int, trained: int, device: torch.device) -> Tensor:
    """Cosines and sines of the text network (2, rows·columns, head_dim/2), one angle per pair.

    Pairs turn by column, row, column, row, … Neighbours are n/(n-1) apart in a square of n, as released; in any other
    shape n is `trained`, the side of the training grid.
    """
    side = rows if rows == columns else trained
    by_row, by_column = _angles(head_dim, rows, columns, side / max(side - 1, 1))
    angles = torch.stack([by_column, by_row], dim=-1).flatten(1)
    return torch.stack([angles.cos(), angles.sin()]).float().to(device)


def _angles(dim: int, rows: int, columns: int, spacing: float = 1.0) -> tuple[Tensor, Tensor]:
    """Angles by row and by column, each (rows·columns, dim/4): position times `omega_k = 10000^(-4k/dim)`."""
    omega = 10_000.0 ** (-4 * torch.arange(dim // 4, dtype=torch.float64, device="cpu") / dim)
    row = spacing * torch.arange(rows, dtype=torch.float64, device="cpu")
    column = spacing * torch.arange(columns, dtype=torch.float64, device="cpu")
    return row.repeat_interleave(columns)[:, None] * omega, column.repeat(rows)[:, None] * omega


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved pairs: `(a, b) → (a·cos - b·sin, b·cos + a·sin)`; `x` is (B, heads, N, head_dim)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.unbind()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)
