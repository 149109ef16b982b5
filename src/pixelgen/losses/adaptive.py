"""The adaptive weight of the perceptual terms."""

import torch
from torch import Tensor, nn

from pixelgen.checks import COUNT, FROM_ZERO, Range, checked


class AdaptiveWeight(nn.Module):
    """Balances the perceptual terms against flow matching by their gradients at the last layer.

    From `start_step` on, every `interval` steps, `w ← m·w + (1-m)·clamp(‖∇fm‖ / (‖∇percept‖ + 1e-4), 0, 100)`, with
    gradients averaged over ranks. The weight is a buffer: checkpoints save and restore it.

    Args:
        start_step: first step of adaptation; before it the weight is 1.
        interval: steps between two updates.
        momentum: m.
    """

    weight: Tensor

    @checked(start_step=FROM_ZERO, interval=COUNT, momentum=Range(0, 1, below=True))
    def __init__(self, start_step: int = 400_000, interval: int = 50, momentum: float = 0.8) -> None:
        super().__init__()
        self.start_step = start_step
        self.interval = interval
        self.momentum = momentum
        self.register_buffer("weight", torch.ones(()))
        self._updated: int | None = None

    def due(self, step: int) -> bool:
        """Whether the weight is updated in this step: once, also where gradients of several batches accumulate."""
        return step != self._updated and step >= self.start_step and (step - self.start_step) % self.interval == 0

    def update(
        self, flow_matching: Tensor, perceptual: Tensor, last_weight: Tensor, step: int, active: bool = True
    ) -> None:
        """Move the weight towards the ratio of gradient norms at `last_weight`, gradients averaged over ranks.

        Every process makes the same calls, whatever passed its gate: under FSDP2 taking a gradient exchanges weights.
        Where nothing passed the gate on any rank (`active` false), or the ratio is not finite, the weight stays.
        """
        self._updated = step
        gradients = [
            torch.autograd.grad(loss, last_weight, retain_graph=True)[0].float().flatten()
            for loss in (flow_matching, perceptual)
        ]
        sums = torch.cat([*gradients, gradients[0].new_full((1,), float(active))])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            sums /= torch.distributed.get_world_size()
        ours, theirs = sums[:-1].view(2, -1).norm(dim=1)
        ratio = (ours / (theirs + 1e-4)).clamp(0, 100)
        ratio = torch.where(ratio.isfinite() & (sums[-1] > 0), ratio, self.weight)
        self.weight.mul_(self.momentum).add_((1 - self.momentum) * ratio)
