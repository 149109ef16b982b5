"""The noise gate: perceptual losses look at samples with little noise only."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pixelgen.checks import Range, check_fields
from pixelgen.flow import TimeSampler


class Gate(ABC):
    """Selects samples by their times. Subclasses are best frozen dataclasses."""

    @abstractmethod
    def select(self, t: Tensor) -> Tensor:
        """Indices of the samples that pass, in order, from times (B,)."""

    def expected(self, time: TimeSampler) -> float | None:
        """Share of samples to divide sums by; None divides by the number that passed."""
        return None


@dataclass(frozen=True)
class NoiseGate(Gate):
    """Selects the samples with `t >= threshold`.

    Args:
        threshold: smallest time that passes, at least 0 and below 1; 0 lets every sample pass.
        normalise: `passing` divides by the number of samples that passed, as released: the effective weight of a loss
            then depends on the micro-batch (0.52x at 1, 0.77x at 2, 0.95x at 4 of its value at 32).
            `expected` divides by the number expected to pass, P(t >= threshold) of the training times, which does not.
    """

    threshold: float = 0.3
    normalise: Literal["passing", "expected"] = "passing"

    def __post_init__(self) -> None:
        check_fields(self, "gate.", threshold=Range(0, 1, below=True))

    def select(self, t: Tensor) -> Tensor:
        """Indices of the samples that pass, in order."""
        return (t >= self.threshold).nonzero().flatten()

    def expected(self, time: TimeSampler) -> float | None:
        """P(t >= threshold) of the training times for `expected`, None for `passing`."""
        return time.fraction_above(self.threshold) if self.normalise == "expected" else None
