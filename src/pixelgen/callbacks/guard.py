"""Keeps one bad batch from ruining a run."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class Guard(Callback):
    """Skips optimizer steps whose loss or gradient is not finite, and stops a run that has gone wrong.

    In a skipped step every gradient is dropped, so that weights and the optimizer's moments stay as they are; the
    step still counts for schedules and `max_steps`. Logs `grad_norm` (over all trainable parameters, before
    clipping) and `skipped_steps`. Looking at the result waits for the device once a step.

    Args:
        patience: stop with an error after this many skipped steps in a row.
    """

    def __init__(self, patience: int = 10) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.patience = patience
        self.skipped = 0
        self._in_a_row = 0
        self._finite_loss: Tensor | None = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remember whether the loss of every micro-batch was finite, without waiting for the device."""
        finite = torch.isfinite(loss.detach()).all()
        self._finite_loss = finite if self._finite_loss is None else self._finite_loss & finite

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drop the gradients if anything is not finite.

        Raises:
            RuntimeError: after `patience` skipped steps in a row.
        """
        parameters = [p for p in pl_module.parameters() if p.grad is not None]
        norm = _norm([p.grad for p in parameters if p.grad is not None], pl_module.device)
        finite_loss = torch.ones_like(norm) if self._finite_loss is None else self._finite_loss.to(norm)
        self._finite_loss = None
        bad = torch.stack([1 - finite_loss, (~torch.isfinite(norm)).to(norm)])
        if trainer.world_size > 1:
            reduced = trainer.strategy.reduce(bad, reduce_op="sum")
            assert isinstance(reduced, Tensor)
            bad = reduced
        bad_loss, bad_gradient = (flag > 0 for flag in bad.tolist())
        if bad_loss or bad_gradient:
            for parameter in parameters:
                parameter.grad = None
            self._skip(trainer, "the loss" if bad_loss else "the gradient")
        else:
            self._in_a_row = 0
            pl_module.log("grad_norm", norm)
        pl_module.log("skipped_steps", float(self.skipped))

    def _skip(self, trainer: Trainer, culprit: str) -> None:
        self.skipped += 1
        self._in_a_row += 1
        step = trainer.global_step + 1
        if self._in_a_row >= self.patience:
            raise RuntimeError(
                f"training diverged: {culprit} was not finite in {self._in_a_row} steps in a row, up to step {step}. "
                "Resume from an earlier checkpoint with a lower learning rate, gradient clipping "
                "(trainer.gradient_clip_val: 1.0), or bf16-mixed instead of 16-mixed precision."
            )
        if self._in_a_row == 1:
            rank_zero_warn(f"{culprit} was not finite at step {step}: the step is skipped")

    def state_dict(self) -> dict[str, Any]:
        """Skipped steps so far."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting."""
        self.skipped = state_dict["skipped"]
        self._in_a_row = state_dict["in_a_row"]


def _norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    if not gradients:
        return torch.zeros((), device=device)
    norm = get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
