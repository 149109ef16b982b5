"""The flow-matching loss."""

from __future__ import annotations

from torch import Tensor, nn

from pixelgen.flow import velocity_from_x


def velocity_loss(x_hat: Tensor, x: Tensor, x_t: Tensor, t: Tensor, t_eps: float = 0.05) -> Tensor:
    """Mean of `(v_hat - v)²` over all elements, both velocities with the clamp `max(1-t, t_eps)`, in float32.

    The same as weighting `(x_hat - x)²` by `1/max(1-t, t_eps)²` (PixelGen, arXiv 2602.02493).
    """
    difference = velocity_from_x(x_hat, x_t, t, t_eps) - velocity_from_x(x, x_t, t, t_eps)
    return difference.square().mean()


class FlowMatching(nn.Module):
    """Flow-matching loss with x-prediction and v-loss.

    Args:
        t_eps: smallest distance to the clean image that velocities are divided by.
    """

    def __init__(self, t_eps: float = 0.05) -> None:
        super().__init__()
        self.t_eps = t_eps

    def forward(self, x_hat: Tensor, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Images (B, C, H, W) and times (B,) → scalar."""
        return velocity_loss(x_hat, x, x_t, t, self.t_eps)
