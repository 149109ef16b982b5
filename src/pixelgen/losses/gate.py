"""The noise gate: perceptual losses look at samples with little noise only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class NoiseGate:
    """Selects the samples with `t >= threshold`, and averages what was computed on them.

    Args:
        threshold: smallest time that passes, at least 0 and below 1; 0 lets every sample pass.
        normalise: `passing` divides by the number of samples that passed, as released: the effective weight of a loss
            then depends on the micro-batch (0.52x at 1, 0.77x at 2, 0.95x at 4 of its value at 32).
            `expected` divides by the number expected to pass, P(t >= threshold) of the training times, which does not.

    Raises:
        ValueError: for another threshold.
    """

    threshold: float = 0.3
    normalise: Literal["passing", "expected"] = "passing"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"gate.threshold is {self.threshold}: give a time from 0 to below 1, or set gate to null")
        if self.normalise not in ("passing", "expected"):
            raise ValueError(f"gate.normalise is {self.normalise!r}: choose passing or expected")

    def select(self, t: Tensor) -> Tensor:
        """Indices of the samples that pass, in order."""
        return (t >= self.threshold).nonzero().flatten()

    def mean(self, values: Tensor, batch_size: int, expected: float) -> Tensor:
        """Average of the passing samples' values.

        Args:
            values: of the samples that passed, at least one.
            batch_size: number of samples before the gate.
            expected: share of samples expected to pass.
        """
        return values.sum() / (batch_size * expected) if self.normalise == "expected" else values.mean()
