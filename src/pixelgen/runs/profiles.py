"""Power-function averages of weights: their exponents, and averages that nobody stored as mixtures of stored ones."""

from __future__ import annotations

import numpy as np


def power_function_gamma(width: float) -> float:
    """Exponent γ of EDM2's power-function average of relative width σ (Karras et al., arXiv:2312.02696, eq. 126).

    The largest real root of γ³ + 7γ² + (16 - σ⁻²)γ + 12 - σ⁻²: 0.10 → 6.937, 0.05 → 16.972.
    """
    roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
    return float(roots.real[np.abs(roots.imag) < 1e-9].max())
