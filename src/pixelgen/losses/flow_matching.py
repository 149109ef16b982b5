"""The flow-matching loss."""

from dataclasses import dataclass

from torch import Tensor

from pixelgen.checks import Range, check_fields
from pixelgen.flow import velocity_from_x
from pixelgen.losses.term import Prediction, Term


def velocity_loss(x_hat: Tensor, x: Tensor, x_t: Tensor, t: Tensor, t_eps: float = 0.05) -> Tensor:
    """Mean of `(v_hat - v)²` over all elements, both velocities with the clamp `max(1-t, t_eps)`, in float32.

    The same as weighting `(x_hat - x)²` by `1/max(1-t, t_eps)²` (PixelGen, arXiv 2602.02493).
    """
    difference = velocity_from_x(x_hat, x_t, t, t_eps) - velocity_from_x(x, x_t, t, t_eps)
    return difference.square().mean()


@dataclass(frozen=True)
class FlowMatching(Term):
    """Flow-matching loss with x-prediction and v-loss.

    Args:
        t_eps: smallest distance to the clean image that velocities are divided by.
    """

    t_eps: float = 0.05

    name = "flow_matching"

    def __post_init__(self) -> None:
        check_fields(self, "flow_matching.", t_eps=Range(0, 1, above=True))

    def compute(self, p: Prediction) -> Tensor:
        """Mean squared error of the velocity (scalar)."""
        return velocity_loss(p.x_hat, p.x, p.x_t, p.t.to(p.x.device), self.t_eps)
