"""Improved precision and recall (Kynkäänniemi et al., arXiv:1904.06991)."""

from __future__ import annotations

import torch
from torch import Tensor


def precision_recall(generated: Tensor, real: Tensor, neighbours: int = 3, block: int = 2048) -> tuple[float, float]:
    """Share of generated features among the real ones, and of real features among the generated ones.

    A feature is among others if it is no farther from one of them than that one's k-th nearest of its own kind.

    Args:
        generated: features (N, D).
        real: features (M, D).
        neighbours: k.
        block: rows of a distance matrix that are in memory at a time.

    Raises:
        ValueError: if there are not more features than neighbours.
    """
    if min(len(generated), len(real)) <= neighbours:
        raise ValueError(
            f"precision and recall need more than {neighbours} images, got {len(generated)} generated and {len(real)} "
            "real ones"
        )
    precision = _share_within(generated, real, _radii(real, neighbours, block), block)
    recall = _share_within(real, generated, _radii(generated, neighbours, block), block)
    return precision, recall


def _radii(features: Tensor, neighbours: int, block: int) -> Tensor:
    """Distance (N,) of each feature to its k-th nearest other one."""
    # the nearest of all is the feature itself
    nearest = [torch.cdist(rows, features).kthvalue(neighbours + 1).values for rows in features.split(block)]
    return torch.cat(nearest)


def _share_within(features: Tensor, centres: Tensor, radii: Tensor, block: int) -> float:
    inside = [(torch.cdist(rows, centres) <= radii).any(dim=1) for rows in features.split(block)]
    return float(torch.cat(inside).double().mean())
