"""Fréchet distance between feature distributions, the measure behind FID (Heusel et al., arXiv:1706.08500)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    """Squared Fréchet distance between two Gaussians: |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁^½ Σ₂ Σ₁^½)^½).

    Computed in float64 by symmetric eigendecomposition, which stays real for singular covariances (fewer
    samples than features), where a general matrix square root returns imaginary parts.

    Args:
        mu1: mean of the first distribution (D,).
        sigma1: its covariance (D, D).
        mu2: mean of the second distribution (D,).
        sigma2: its covariance (D, D).

    Raises:
        ValueError: if the two distributions have different dimensions.
    """
    if mu1.shape != mu2.shape or sigma1.shape != sigma2.shape:
        raise ValueError(
            f"cannot compare features of {mu1.shape[0]} and {mu2.shape[0]} dimensions: "
            "use statistics of the same feature extractor"
        )
    mu1, sigma1, mu2, sigma2 = (x.detach().cpu().double() for x in (mu1, sigma1, mu2, sigma2))
    values, vectors = torch.linalg.eigh(sigma1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ sigma2 @ root).clamp(min=0).sqrt().sum()
    return float((mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * cross)


class FeatureStatistics(Metric):
    """Mean and covariance of features, accumulated as float64 sums that add up over processes.

    Args:
        num_features: length D of one feature vector.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    n: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        double = torch.float64
        self.add_state("n", torch.zeros((), dtype=double), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(num_features, dtype=double), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(num_features, num_features, dtype=double), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add features (B, D)."""
        if features.ndim != 2 or features.shape[1] != len(self.total):
            raise ValueError(f"want features (B, {len(self.total)}), got {tuple(features.shape)}")
        features = features.detach().to(self.total)
        self.n += len(features)
        self.total += features.sum(dim=0)
        self.outer += features.T @ features

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean (D,), the covariance (D, D) normalised by n - 1, and n, float64, of all processes.

        Raises:
            ValueError: for fewer than two samples.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {int(self.n)}")
        mu = self.total / self.n
        return mu, (self.outer - self.n * torch.outer(mu, mu)) / (self.n - 1), self.n.clone()
