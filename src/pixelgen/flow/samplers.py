"""Samplers: a solver, its time grid and guidance, as one configurable part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pixelgen.flow.guidance import Guidance
from pixelgen.flow.path import velocity_from_x
from pixelgen.flow.solvers import (
    Progress,
    Velocity,
    adams_bashforth,
    cheap_heun,
    euler,
    heun,
    time_grid,
)

Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # x_t, t (B,), condition → x_hat


class Sampler:
    """Turns noise into images by integrating the velocity that a network's prediction of x implies.

    When guidance is 1 or inactive at a step, the unconditional branch is not computed; when it is active, both
    branches go through the network in one batch.

    Args:
        num_steps: number of steps N.
        shift: time shift of the grid; above 1 spends more steps near noise.
        guidance: strength of classifier-free guidance; 1 is none.
        guidance_min: guidance is off at times up to this one.
        guidance_max: guidance is off above this time.
        t_eps: smallest distance to the clean image that velocities are divided by.
    """

    closed_interval = True  # whether guidance is still on at exactly `guidance_max`

    def __init__(
        self,
        num_steps: int = 50,
        shift: float = 1.0,
        guidance: float = 1.0,
        guidance_min: float = 0.0,
        guidance_max: float = 1.0,
        t_eps: float = 0.05,
    ) -> None:
        if num_steps < 1 or shift <= 0:
            raise ValueError(f"a sampler needs at least one step and a positive shift, not {num_steps} and {shift}")
        self.times = time_grid(num_steps, shift)
        self.shift = shift
        self.guidance = Guidance(guidance, guidance_min, guidance_max)
        self.t_eps = t_eps

    def settings(self) -> dict[str, Any]:
        """Name of the class and its arguments, for records; of subclasses the attributes that are numbers or text."""
        interval = {"guidance_min": self.guidance.t_min, "guidance_max": self.guidance.t_max}
        own = {"num_steps": len(self.times) - 1, "guidance": self.guidance.scale, **interval}
        more = {key: value for key, value in vars(self).items() if isinstance(value, bool | int | float | str)}
        return {"class": type(self).__name__, **own, **more}

    def solve(self, velocity: Velocity, noise: Tensor, progress: Progress | None = None) -> Tensor:
        """Integrate `velocity` from noise to image over `self.times`."""
        raise NotImplementedError

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
        guided = condition is not None and null_condition is not None

        def velocity(x: Tensor, t: float, start: float) -> Tensor:
            if not guided or not self.guidance.active(start, self.closed_interval):
                return self._velocity(predict, x, t, condition)
            assert condition is not None
            assert null_condition is not None
            both = self._velocity(predict, torch.cat([x, x]), t, torch.cat([condition, null_condition]))
            v_cond, v_uncond = both.chunk(2)
            return v_uncond + self.guidance.scale * (v_cond - v_uncond)

        return self.solve(velocity, noise, progress)

    def _velocity(self, predict: Predict, x: Tensor, t: float, condition: Tensor | None) -> Tensor:
        time = torch.full((len(x),), t, device=x.device, dtype=torch.float32)
        x_hat = predict(x, time, condition)
        return velocity_from_x(x_hat, x, time, self.t_eps).to(x.dtype)


class Euler(Sampler):
    """Euler's method: N network evaluations an image."""

    def solve(self, velocity: Velocity, noise: Tensor, progress: Progress | None = None) -> Tensor:
        """Integrate from noise to image."""
        return euler(velocity, noise, self.times, progress)


class Heun(Sampler):
    """Heun's method, second order; the last step is Euler: 2N - 1 network evaluations an image.

    Args:
        exact: false reuses each corrector's velocity in the next step: N evaluations instead of 2N - 1.
        options: arguments of `Sampler`.
    """

    def __init__(self, exact: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.exact = exact

    def solve(self, velocity: Velocity, noise: Tensor, progress: Progress | None = None) -> Tensor:
        """Integrate from noise to image."""
        return (heun if self.exact else cheap_heun)(velocity, noise, self.times, progress)


class AdamsBashforth(Sampler):
    """Adams–Bashforth multistep method: N network evaluations an image.

    Args:
        order: number of velocities combined, 1 to 4.
        options: arguments of `Sampler`; guidance is off from `guidance_max` on, not only above it.
    """

    closed_interval = False

    def __init__(self, order: int = 2, **options: Any) -> None:
        super().__init__(**options)
        if order not in range(1, 5):
            raise ValueError(f"Adams-Bashforth of order {order} is not supported: choose 1, 2, 3 or 4")
        self.order = order

    def solve(self, velocity: Velocity, noise: Tensor, progress: Progress | None = None) -> Tensor:
        """Integrate from noise to image."""
        return adams_bashforth(velocity, noise, self.times, progress, self.order)
