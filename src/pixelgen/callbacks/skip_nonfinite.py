"""Keeps one bad batch from ruining a run."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import PolynomialLR

from pixelgen.checks import COUNT, checked
from pixelgen.module import PixelGen, is_logging_step


class SkipNonFinite(Callback):
    """Skips optimizer steps whose gradient is not finite, and stops a run that has gone wrong.

    In a skipped step weights and the optimizer's moments stay as they are; the step still counts for schedules and
    `max_steps`. Logs `grad_norm` (over all trainable parameters, before clipping) and `skipped_steps`.

    The decision stays on the device where the optimizer is a fused one, such as `AdamW(fused=True)`; for others the
    host waits for it once a step. What was skipped is looked at in the trainer's logging steps.

    Args:
        patience: stop with an error once this many steps in a row were skipped.
    """

    @checked(patience=COUNT)
    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self._counts = torch.zeros(2)  # steps skipped, and how many of them were the last in a row; on the device
        self._reported = 0

    @property
    def skipped(self) -> int:
        """Steps skipped so far; asking waits for the device."""
        return int(self._counts[0])

    def on_train_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Warn of a schedule that ends before training: from there on nothing would be learned."""
        for config in trainer.lr_scheduler_configs:
            schedule = getattr(config.scheduler, "schedule", config.scheduler)  # below a warm-up
            if isinstance(schedule, PolynomialLR) and schedule.total_iters < trainer.max_steps:
                rank_zero_warn(
                    f"the learning rate falls to 0 at step {schedule.total_iters}, before the last one, "
                    f"{trainer.max_steps}: give model.scheduler.total_iters {trainer.max_steps}"
                )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: PixelGen, optimizer: Optimizer) -> None:
        """Let the step do nothing if the gradient is not finite."""
        norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm.to(pl_module.device)
        bad = (~torch.isfinite(norm)).float()
        skipped, in_a_row = self._counts.to(norm.device)
        self._counts = torch.stack([skipped + bad, (in_a_row + 1) * bad])
        if _is_fused(optimizer):
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # what fused optimizers ask before they step
        elif bad:
            pl_module.zero_grad(set_to_none=True)
        step = trainer.global_step + 1
        if is_logging_step(trainer, step):
            self._report(step)
            if not bad:
                pl_module.log("grad_norm", norm / gradient_scale(trainer, optimizer))
            pl_module.log("skipped_steps", self._counts[0])

    def on_train_end(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Tell of what was skipped since the last logging step."""
        self._report(trainer.global_step)

    def _report(self, step: int) -> None:
        skipped, in_a_row = self.state_dict().values()
        new, self._reported = skipped - self._reported, skipped
        if in_a_row >= self.patience:
            raise RuntimeError(
                f"training diverged: the gradient was not finite in {in_a_row} steps in a row, up to step {step}. "
                "Resume from an earlier checkpoint with a lower learning rate, gradient clipping "
                "(trainer.gradient_clip_val: 1.0), or bf16-mixed instead of 16-mixed precision."
            )
        if new:
            rank_zero_warn(f"{new} of the steps up to {step} were skipped, because the gradient was not finite")

    def state_dict(self) -> dict[str, Any]:
        """Skipped steps so far."""
        skipped, in_a_row = (int(count) for count in self._counts.tolist())
        return {"skipped": skipped, "in_a_row": in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting."""
        self._reported = state_dict["skipped"]
        self._counts = torch.tensor([state_dict["skipped"], state_dict["in_a_row"]], dtype=torch.float32)


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """By what 16-mixed precision has multiplied the gradients; fused optimizers alone divide by it in their step."""
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None and _is_fused(optimizer) else 1.0


def _is_fused(optimizer: Optimizer) -> bool:
    return getattr(optimizer, "_step_supports_amp_scaling", False)
