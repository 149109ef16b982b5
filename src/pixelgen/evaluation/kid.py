"""Kernel distance, the measure behind KID (Bińkowski et al., arXiv:1801.01401)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def kernel_distance(
    generated: Tensor, real: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x·y/D + 1)³, unbiased: mean and deviation over subsets.

    Subsets are drawn as torch-fidelity draws them, so that the same features give the same numbers.

    Args:
        generated: features (N, D).
        real: features (M, D).
        subsets: how many pairs of subsets.
        subset_size: features in each, drawn without replacement.
        seed: of the draws.

    Raises:
        ValueError: if there are fewer features than a subset holds.
    """
    if min(len(generated), len(real)) < subset_size:
        raise ValueError(
            f"KID with subsets of {subset_size} needs as many images, got {len(generated)} generated and {len(real)} "
            "real ones: give a smaller kid_subset_size"
        )
    random = np.random.RandomState(seed)
    values = np.empty(subsets)
    for i in range(subsets):
        x, y = (features[_draw(random, len(features), subset_size)].double() for features in (generated, real))
        values[i] = _squared_discrepancy(x, y)
    return float(values.mean()), float(values.std())


def _draw(random: np.random.RandomState, count: int, size: int) -> Tensor:
    return torch.from_numpy(random.choice(count, size, replace=False))


def _squared_discrepancy(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate from features (n, D) each: no feature is compared with itself."""
    n, length = x.shape
    within = 0.0
    for features in (x, y):
        kernel = (features @ features.T / length + 1) ** 3
        within += float(kernel.sum() - kernel.trace()) / (n * (n - 1))
    return within - 2 * float(((x @ y.T / length + 1) ** 3).mean())
