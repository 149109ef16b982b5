"""The noise gate: perceptual losses look at samples with little noise only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class NoiseGate(nn.Module):
    """Selects the samples with `t >= threshold`, and averages what was computed on them.

    Args:
        threshold: smallest time that passes; 0 lets every sample pass.
        normalise: `passing` divides by the number of samples that passed, as released: the effective weight of a loss
            then depends on the micro-batch (0.52x at 1, 0.77x at 2, 0.95x at 4 of its value at 32).
            `expected` divides by the number expected to pass, which does not.
        expected_fraction: share of times expected to pass; 0.5236 is right for threshold 0.3 and the published times.
    """

    def __init__(
        self,
        threshold: float = 0.3,
        normalise: Literal["passing", "expected"] = "passing",
        expected_fraction: float = 0.5236,
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.normalise = normalise
        self.expected_fraction = expected_fraction

    def select(self, t: Tensor) -> Tensor:
        """Indices of the samples that pass, in order."""
        return (t >= self.threshold).nonzero().flatten()

    def mean(self, values: Tensor, batch_size: int) -> Tensor:
        """Average of the passing samples' values; 0 when nothing passed."""
        if values.numel() == 0:
            return torch.zeros((), device=values.device)
        if self.normalise == "expected":
            return values.sum() / (batch_size * self.expected_fraction)
        return values.mean()
