"""Classifier-free guidance on an interval of times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guidance:
    """`v = v_uncond + scale·(v_cond - v_uncond)` inside an interval of times, `v_cond` outside.

    Args:
        scale: guidance strength; 1 is none, and then the unconditional branch is never computed.
        t_min: guidance is off at times up to this one (0: the first step, at t = 0, is unguided, as published).
        t_max: guidance is off above this time.
    """

    scale: float = 1.0
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not self.t_min < self.t_max:
            raise ValueError(f"guidance interval {self.t_min} to {self.t_max} is empty: t_min must be below t_max")

    def active(self, t: float, closed: bool = True) -> bool:
        """Whether a step that starts at `t` is guided: `t_min < t <= t_max`, or `< t_max` if not `closed`."""
        if self.scale == 1.0:
            return False
        return self.t_min < t and (t <= self.t_max if closed else t < self.t_max)
