"""ODE solvers: pure functions of (velocity function, noise, times).

A velocity function takes (x, t, start): the state, the time, and the time at the start of the step the call belongs
to, which decides about guidance. `times` ascends from 0 (noise) to 1 (image), float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

Velocity = Callable[[Tensor, float, float], Tensor]
Progress = Callable[[int, Tensor], None]


def time_grid(num_steps: int, shift: float = 1.0) -> list[float]:
    """N+1 times from 0 to 1: `u = i/N`, `t = u / (u + (1-u)·shift)`, computed in float64."""
    u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    return [float(t) for t in u / (u + (1 - u) * shift)]


def euler(velocity: Velocity, x: Tensor, times: Sequence[float], progress: Progress | None = None) -> Tensor:
    """Euler: `x += dt·v(t)`. N velocity calls."""
    for i, (t, t_next) in enumerate(pairwise(times)):
        x = x + (t_next - t) * velocity(x, t, t)
        _tell(progress, i + 1, x)
    return x


def heun(velocity: Velocity, x: Tensor, times: Sequence[float], progress: Progress | None = None) -> Tensor:
    """Heun's second-order method, the last step Euler. 2N - 1 velocity calls.

    The corrector keeps the guidance decision of its step's start.
    """
    for i, (t, t_next) in enumerate(pairwise(times)):
        v = velocity(x, t, t)
        if i < len(times) - 2:
            v = (v + velocity(x + (t_next - t) * v, t_next, t)) / 2
        x = x + (t_next - t) * v
        _tell(progress, i + 1, x)
    return x


def cheap_heun(velocity: Velocity, x: Tensor, times: Sequence[float], progress: Progress | None = None) -> Tensor:
    """Heun that reuses each corrector's velocity as the next step's first one. N velocity calls.

    The reused velocity keeps the guidance decision of the step that computed it.
    """
    v = velocity(x, times[0], times[0])
    for i, (t, t_next) in enumerate(pairwise(times)):
        if i == len(times) - 2:
            x = x + (t_next - t) * v
        else:
            corrector = velocity(x + (t_next - t) * v, t_next, t)
            x = x + (t_next - t) * (v + corrector) / 2
            v = corrector
        _tell(progress, i + 1, x)
    return x


def adams_bashforth(
    velocity: Velocity, x: Tensor, times: Sequence[float], progress: Progress | None = None, order: int = 2
) -> Tensor:
    """Adams–Bashforth of order 1 to 4 on a grid of any spacing. N velocity calls.

    The velocity over a step is the mean, over the step, of the Lagrange polynomial through the last velocities.
    """
    history: list[tuple[float, Tensor]] = []
    for i, (t, t_next) in enumerate(pairwise(times)):
        history = [*history, (t, velocity(x, t, t))][-order:]
        weights = lagrange_means([time for time, _ in history], t, t_next)
        x = x + (t_next - t) * sum(w * v for w, (_, v) in zip(weights, history, strict=True))
        _tell(progress, i + 1, x)
    return x


def lagrange_means(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Mean over [start, end] of each Lagrange basis polynomial through `nodes`; the means sum to 1."""
    width = end - start
    scaled = [(node - start) / width for node in nodes]  # the step becomes [0, 1], which keeps the numbers tame
    means = []
    for j, node in enumerate(scaled):
        others = [other for k, other in enumerate(scaled) if k != j]
        basis = np.polynomial.Polynomial.fromroots(others) if others else np.polynomial.Polynomial([1.0])
        means.append(float(basis.integ()(1.0) / basis(node)))
    return means


def _tell(progress: Progress | None, step: int, x: Tensor) -> None:
    if progress is not None:
        progress(step, x)
