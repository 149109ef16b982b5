"""Samplers: an ODE solver, its time grid and classifier-free guidance, as one frozen set of options."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pixelgen.checks import FROM_ZERO, POSITIVE, Range, check_fields
from pixelgen.flow.path import velocity_from_x

Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # x_t, t (B,), condition → x_hat
Velocity = Callable[[Tensor, float, float], Tensor]
"""(x, t, start) → velocity; `start` is the time at the start of the step, which decides about guidance."""
Progress = Callable[[int, Tensor], None]


def time_grid(num_steps: int, shift: float = 1.0) -> list[float]:
    """N+1 times from 0 to 1: `u = i/N`, `t = u / (u + (1-u)·shift)`, computed in float64."""
    u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    return [float(t) for t in u / (u + (1 - u) * shift)]


@dataclass(frozen=True)
class Sampler(ABC):
    """Turns noise into images by integrating the velocity that a network's prediction of x implies.

    Guidance is `v = v_uncond + guidance·(v_cond - v_uncond)` inside an interval of times, and `v_cond` outside. Where
    it is 1 or inactive, the unconditional branch is not computed; where it is active, both branches go through the
    network in one batch. Subclasses are frozen dataclasses too and implement `solve`.

    Args:
        num_steps: number of steps N.
        shift: time shift of the grid; above 1 spends more steps near noise.
        guidance: scale of classifier-free guidance; 1 is none.
        guidance_min: guidance is off at times up to this one (0: the first step, at t = 0, is unguided, as published).
        guidance_max: guidance is off above this time.
        t_eps: smallest distance to the clean image that velocities are divided by.

    Raises:
        ValueError: for a number that is out of range, or an empty interval.
    """

    num_steps: int = 50
    shift: float = 1.0
    guidance: float = 1.0
    guidance_min: float = 0.0
    guidance_max: float = 1.0
    t_eps: float = 0.05

    closed_interval: ClassVar[bool] = True  # whether guidance is still on at exactly `guidance_max`

    def __post_init__(self) -> None:
        ranges = {"num_steps": Range(1, 10_000), "shift": POSITIVE, "guidance": FROM_ZERO, "order": Range(1, 4)}
        check_fields(self, "sampler.", **ranges, t_eps=Range(0, 1, above=True))
        if not self.guidance_min < self.guidance_max:
            raise ValueError(
                f"the guidance interval {self.guidance_min} to {self.guidance_max} is empty: guidance_min must be "
                "below guidance_max"
            )

    @property
    def times(self) -> list[float]:
        """N+1 times from 0 (noise) to 1 (image)."""
        return time_grid(self.num_steps, self.shift)

    def active(self, t: float) -> bool:
        """Whether a step that starts at `t` is guided."""
        below = t <= self.guidance_max if self.closed_interval else t < self.guidance_max
        return self.guidance != 1 and self.guidance_min < t and below

    @property
    def guided(self) -> bool:
        """Whether any step is; only then does a sampler get the null condition."""
        return any(self.active(t) for t in self.times[:-1])

    def settings(self) -> dict[str, Any]:
        """Name of the class and its arguments, for records."""
        first = ("num_steps", "guidance", "guidance_min", "guidance_max")  # the order in the metadata of images
        return {"class": type(self).__name__, **{name: getattr(self, name) for name in first}} | asdict(self)

    @abstractmethod
    def solve(self, velocity: Velocity, x: Tensor, progress: Progress | None = None) -> Tensor:
        """Integrate `velocity` from noise to image over `self.times`."""

    @torch.no_grad()
    def __call__(
        self,
        predict: Predict,
        noise: Tensor,
        condition: Tensor | None = None,
        null_condition: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Images like `noise` (B, C, H, W).

        Args:
            predict: x_t, t (B,), condition → predicted clean images.
            noise: N(0, noise scale²).
            condition: one per image, or None for an unconditional network.
            null_condition: what "no condition" looks like; None: guidance is ignored.
            progress: called after each step with its number (from 1) and the state.
        """

        def velocity(x: Tensor, t: float, start: float) -> Tensor:
            if condition is None or null_condition is None or not self.active(start):
                return self._velocity(predict, x, t, condition)
            both = self._velocity(predict, torch.cat([x, x]), t, torch.cat([condition, null_condition]))
            v_cond, v_uncond = both.chunk(2)
            return v_uncond + self.guidance * (v_cond - v_uncond)

        return self.solve(velocity, noise, progress)

    def _velocity(self, predict: Predict, x: Tensor, t: float, condition: Tensor | None) -> Tensor:
        time = torch.full((len(x),), t, device=x.device, dtype=torch.float32)
        return velocity_from_x(predict(x, time, condition), x, time, self.t_eps).to(x.dtype)


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method, `x += dt·v(t)`: N network evaluations an image."""

    def solve(self, velocity: Velocity, x: Tensor, progress: Progress | None = None) -> Tensor:
        """Integrate from noise to image."""
        for i, (t, t_next) in enumerate(pairwise(self.times)):
            x = x + (t_next - t) * velocity(x, t, t)
            _tell(progress, i + 1, x)
        return x


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method, second order; the last step is Euler: 2N - 1 network evaluations an image.

    A corrector, and a velocity that is reused, keeps the guidance decision of the step that computed it.

    Args:
        exact: false reuses each corrector's velocity in the next step: N evaluations instead of 2N - 1.
    """

    exact: bool = True

    def solve(self, velocity: Velocity, x: Tensor, progress: Progress | None = None) -> Tensor:
        """Integrate from noise to image."""
        corrector: Tensor | None = None
        for i, (t, t_next) in enumerate(pairwise(self.times)):
            v = velocity(x, t, t) if self.exact or corrector is None else corrector
            if i < self.num_steps - 1:
                corrector = velocity(x + (t_next - t) * v, t_next, t)
                v = (v + corrector) / 2
            x = x + (t_next - t) * v
            _tell(progress, i + 1, x)
        return x


@dataclass(frozen=True)
class AdamsBashforth(Sampler):
    """Adams–Bashforth multistep method on a grid of any spacing: N network evaluations an image.

    The velocity over a step is the mean, over the step, of the Lagrange polynomial through the last velocities.
    Guidance is off from `guidance_max` on, not only above it.

    Args:
        order: number of velocities combined, 1 to 4.
    """

    order: int = 2

    closed_interval: ClassVar[bool] = False

    def solve(self, velocity: Velocity, x: Tensor, progress: Progress | None = None) -> Tensor:
        """Integrate from noise to image."""
        history: list[tuple[float, Tensor]] = []
        for i, (t, t_next) in enumerate(pairwise(self.times)):
            history = [*history, (t, velocity(x, t, t))][-self.order :]
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
