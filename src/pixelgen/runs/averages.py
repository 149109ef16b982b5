"""Power-function EMAs of any width, put together after training from those that checkpoints hold.

Karras et al. 2024 (arXiv:2312.02696), section 3. An EMA of relative width σ, taken at optimizer step t, weighs the
weights of step τ by `p(τ) = (γ+1) τ^γ / t^(γ+1)`. The profile of an EMA that nobody stored is fitted, by least squares,
by the profiles of those that were, and the same mixture of them is the EMA.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PREFIX = "width"  # of the names of power-function EMAs


def power_function_gamma(width: float) -> float:
    """Exponent γ of the power-function EMA of relative width σ (equation 126).

    The largest real root of γ³ + 7γ² + (16 - σ⁻²)γ + 12 - σ⁻²: 0.10 → 6.937, 0.05 → 16.972.
    """
    roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
    return float(roots.real[np.abs(roots.imag) < 1e-9].max())


def width_of(name: object) -> float | None:
    """The width in the name of an EMA, such as 0.1 in "width0.10"; None for other EMAs."""
    if not isinstance(name, str) or not name.startswith(PREFIX):
        return None
    try:
        return float(name.removeprefix(PREFIX))
    except ValueError:
        return None


@dataclass(frozen=True)
class Profile:
    """Which weights an EMA is made of: that of relative width σ, taken at an optimizer step."""

    step: int
    width: float

    def dot(self, other: "Profile") -> float:
        """Integral of the product of two profiles over all steps."""
        early, late = sorted((self, other), key=lambda profile: profile.step)
        a, b = power_function_gamma(early.width), power_function_gamma(late.width)
        return (a + 1) * (b + 1) / (a + b + 1) * (early.step / late.step) ** b / late.step


def mixture(stored: Sequence[Profile], wanted: Profile) -> tuple[NDArray[np.float64], float]:
    """Shares of the stored EMAs, which sum to 1, and the relative error (L2) of the profile that they make."""
    scale = wanted.step  # of order 1 whatever the number of steps
    products = scale * np.array([[a.dot(b) for b in stored] for a in stored])
    target = scale * np.array([a.dot(wanted) for a in stored])
    ones = np.ones((len(stored), 1))
    system = np.block([[products, ones], [ones.T, np.zeros((1, 1))]])  # of Lagrange, for the sum
    shares = np.linalg.lstsq(system, np.append(target, 1.0), rcond=1e-13)[0][:-1]
    norm = scale * wanted.dot(wanted)
    error = norm - 2 * shares @ target + shares @ products @ shares
    return shares, float(np.sqrt(max(0.0, error) / norm))


def mix(stored: Mapping[Profile, dict[str, Tensor]], wanted: Profile) -> tuple[dict[str, Tensor], float]:
    """The EMA of a profile, float32, from stored ones, and the relative error of its profile."""
    shares, error = mixture([*stored], wanted)
    parts = [*zip(shares.tolist(), stored.values(), strict=True)]
    mixed = {
        key: torch.stack([share * weights[key].double() for share, weights in parts]).sum(0).float()
        for key in parts[0][1]
    }
    return mixed, error
