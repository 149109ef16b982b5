"""How training times are drawn."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelgen.checks import POSITIVE, check_fields


def shift_time(u: Tensor, shift: float) -> Tensor:
    """`t = u / (u + (1-u)·shift)`; a shift above 1 moves times towards noise."""
    return u / (u + (1 - u) * shift)


class TimeSampler(ABC):
    """Draws training times in (0, 1); 0 is pure noise, 1 the clean image. Subclasses are best frozen dataclasses."""

    @abstractmethod
    def __call__(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """Times (B,), float32."""

    def fraction_above(self, threshold: float) -> float:
        """P(t >= threshold), in [0, 1]; estimated from 2¹⁸ times where a subclass has no formula."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return float((self(1 << 18) >= threshold).double().mean())


@dataclass(frozen=True)
class LogitNormalTime(TimeSampler):
    """Logit-normal times: `u = sigmoid(z)`, `z ~ N(mean, std²)`, then `t = u / (u + (1-u)·shift)`.

    With the published values P(t < 0.3) = 47.6 %.

    Args:
        mean: mean of the logit.
        std: standard deviation of the logit.
        shift: above 1 moves times towards noise.
        stratified: draw one time from each of B equally likely strata, in random order, instead of B independent
            times. Each time keeps its marginal distribution, and the batch mean of any loss varies less.
    """

    mean: float = -0.8
    std: float = 0.8
    shift: float = 1.0
    stratified: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "time.", std=POSITIVE, shift=POSITIVE)

    def __call__(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """Times (B,), float32."""
        if self.stratified:
            strata = torch.randperm(batch_size, device=device)
            uniform = (strata + torch.rand(batch_size, device=device, dtype=torch.float64)) / batch_size
            z = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12)).float()
        else:
            z = torch.randn(batch_size, device=device)
        return shift_time(torch.sigmoid(self.mean + self.std * z), self.shift)

    def fraction_above(self, threshold: float) -> float:
        """P(t >= threshold): logit(t) is normal with mean `mean - log(shift)`."""
        if not 0 < threshold < 1:
            return float(threshold <= 0)
        z = (math.log(threshold / (1 - threshold)) + math.log(self.shift) - self.mean) / self.std
        return 0.5 * math.erfc(z / math.sqrt(2))
