"""Fréchet distance between feature distributions, the measure behind FID (Heusel et al., arXiv:1706.08500)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from pixelgen.encoders.frozen import FeatureExtractor


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


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, with what is needed to know whether two of them may be compared.

    Args:
        mu: mean (D,), float64.
        sigma: covariance (D, D), float64, normalised by n - 1.
        n: number of images, where the file says so.
        extractor: name of the feature extractor, where the file says so.
        weights_sha256: SHA-256 of the extractor's weights, where the file says so.
    """

    mu: Tensor
    sigma: Tensor
    n: int | None = None
    extractor: str | None = None
    weights_sha256: str | None = None

    def distance(self, other: Statistics) -> float:
        """Squared Fréchet distance to other statistics."""
        return frechet_distance(self.mu, self.sigma, other.mu, other.sigma)

    def save(self, path: Path) -> None:
        """Write an npz with `mu` and `sigma`, the keys the field uses, and `n`, `extractor`, `weights_sha256`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {"n": self.n, "extractor": self.extractor, "weights_sha256": self.weights_sha256}
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in known.items() if value is not None}
        unfinished = path.with_name(f".{path.stem}.unfinished.npz")
        np.savez(unfinished, mu=self.mu.cpu().numpy(), sigma=self.sigma.cpu().numpy(), **arrays)
        os.replace(unfinished, path)

    @staticmethod
    def load(path: Path, extractor: FeatureExtractor | None = None) -> Statistics:
        """Read an npz of ours, ADM's (`mu`, `sigma`, ...) or JiT's (`mu`, `sigma`).

        Raises:
            ValueError: if the file holds no statistics, or they come from another extractor than `extractor`.
        """
        if not path.is_file():
            raise ValueError(f"no statistics at {path}: pass the path of an npz with `mu` and `sigma`")
        with np.load(path, allow_pickle=False) as file:
            missing = {"mu", "sigma"} - set(file.files)
            if missing:
                raise ValueError(
                    f"{path} holds {sorted(file.files)} but no {sorted(missing)}: "
                    "pass an npz of feature statistics, or a folder of images"
                )
            known = {key: file[key].item() for key in ("n", "extractor", "weights_sha256") if key in file.files}
            mu, sigma = (torch.from_numpy(np.asarray(file[key], dtype=np.float64)) for key in ("mu", "sigma"))
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise ValueError(f"{path} holds mu {tuple(mu.shape)} and sigma {tuple(sigma.shape)}: want (D,), (D, D)")
        statistics = Statistics(mu, sigma, **known)
        if extractor is not None:
            statistics.check(extractor, str(path))
        return statistics

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between any two statistics."""
        digest = hashlib.sha256(self.mu.cpu().numpy().tobytes())
        digest.update(self.sigma.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, extractor: FeatureExtractor, where: str) -> None:
        """Raise a ValueError if these statistics cannot have come from `extractor`."""
        if len(self.mu) != extractor.num_features:
            raise ValueError(
                f"the statistics in {where} have {len(self.mu)} features but {extractor.name} makes "
                f"{extractor.num_features}: pass the extractor that made them"
            )
        if self.extractor is not None and self.extractor != extractor.name:
            raise ValueError(
                f"the statistics in {where} were made by {self.extractor}, not by {extractor.name}: "
                "pass the extractor that made them"
            )
        hashes = self.weights_sha256, extractor.weights_sha256
        if None not in hashes and hashes[0] != hashes[1]:
            raise ValueError(
                f"the statistics in {where} were made with other weights of {extractor.name} "
                f"({hashes[0]}) than the ones loaded ({hashes[1]}): compute them again"
            )


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

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the mean (D,) and the covariance (D, D) normalised by n - 1, float64.

        Raises:
            ValueError: for fewer than two samples.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {int(self.n)}")
        mu = self.total / self.n
        return mu, (self.outer - self.n * torch.outer(mu, mu)) / (self.n - 1)
