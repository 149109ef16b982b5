"""PixelGen as a LightningModule: wires denoiser, objective, sampler and optimizer; holds no mathematics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pixelgen.conditioner import Condition, check_text, condition_of, encode, null_condition, requests
from pixelgen.distributed.fsdp import check_synchronised, refuse_unsupported, shard
from pixelgen.encoders.text import TextEncoder
from pixelgen.flow import Heun, LogitNormalTime, Sampler, TimeSampler, draw_noise, interpolate, noise_like, to_float
from pixelgen.losses import Objective, Prediction, Terms
from pixelgen.models import Denoiser

Batch = dict[str, Any]


def adamw(params: Iterable[Tensor]) -> Optimizer:
    """The published optimizer: AdamW, lr 1e-4, betas (0.9, 0.999), no weight decay."""
    return torch.optim.AdamW(params, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, fused=True)


def is_logging_step(trainer: Trainer, step: int) -> bool:
    """Whether what is logged at this optimizer step reaches the loggers; steps are counted from 1."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


class PixelGen(LightningModule):
    """Trains a denoiser in pixel space by x-prediction, flow matching and perceptual losses (arXiv 2602.02493).

    To change one step of training, subclass and override one of the hooks: `draw_times`, `draw_noise`, `corrupt`,
    `predict`, `combine`. Batches are dicts with `image` (uint8, or float in [-1, 1]; B, C, H, W) and, for a conditional
    denoiser, `label` (B,), or `caption` (a list of B prompts) or `text` (their states; B, L, E).

    Args:
        denoiser: the network.
        objective: loss terms; null for flow matching alone.
        sampler: how images are made in previews, evaluation and `sample`.
        time: how training times are drawn.
        optimizer: called with the trainable parameters.
        scheduler: called with the optimizer and stepped after every step; null keeps the learning rate constant.
        warmup_steps: steps over which the scheduler's learning rate is multiplied by a ramp from 0 to 1.
        condition_dropout: share of labels replaced by the null class, or of prompts by the empty one, for guidance.
        noise_scale: standard deviation of the noise.
        seed: seed of times, noise and dropout; together with the step it decides every random number of a step.
        compile_blocks: compile each block of the denoiser.
        checkpoint_blocks: recompute the blocks' activations in the backward pass, to save memory.
        text_encoder: turns prompts into text states for a denoiser that takes them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        objective: Objective | None = None,
        sampler: Sampler | None = None,
        time: TimeSampler | None = None,
        optimizer: OptimizerCallable = adamw,
        scheduler: LRSchedulerCallable | None = None,
        warmup_steps: int = 0,
        condition_dropout: float = 0.1,
        noise_scale: float = 1.0,
        seed: int = 0,
        compile_blocks: bool = False,
        checkpoint_blocks: bool = False,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        check_text(denoiser, text_encoder)
        if not 0 <= condition_dropout <= 1:
            raise ValueError(f"condition_dropout is {condition_dropout}: choose a share between 0 and 1")
        self.denoiser = denoiser
        self.text_encoder = text_encoder
        self.objective = objective or Objective()
        self.objective.connect(denoiser.hidden_size, len(denoiser.blocks), denoiser.patch_size)
        self.sampler = sampler or Heun()
        self.time = time or LogitNormalTime()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.warmup_steps = warmup_steps
        self.condition_dropout = condition_dropout
        self.noise_scale = noise_scale
        self.seed = seed
        self.denoiser.checkpoint_blocks = checkpoint_blocks
        if compile_blocks:
            self.denoiser.compile_blocks()

    # Hooks for subclasses

    def draw_times(self, batch_size: int) -> Tensor:
        """Training times (B,) in [0, 1], on the CPU; 0 is noise.

        The batch is that of all processes together: each of them draws the same times and takes its share.
        """
        return self.time(batch_size)

    def draw_noise(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Noise like the clean images `x`, from one seed per image: the same on any number of processes."""
        return noise_like(x, seeds, self.noise_scale)

    def corrupt(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy images `x_t` from clean images, noise and times (B,)."""
        return interpolate(x, noise, t)

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Predicted clean images, and the hidden tokens that the objective asks for."""
        return self.denoiser.forward_with_features(x_t, t, condition, self.objective.hidden_layer)

    def combine(self, terms: Terms) -> Tensor:
        """Total loss (scalar) from the terms."""
        return self.objective.combine(terms, self.global_step, self.denoiser.last_layer.weight)

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Corrupt, predict, compare; in logging steps, log every term by name."""
        prediction = self.denoise(batch, self.trainer.fit_loop.epoch_loop.total_batch_idx)
        terms = self.objective(prediction)
        loss = self.combine(terms)
        if is_logging_step(self.trainer, self.global_step + 1):
            self._log(loss, terms)
        return loss

    def _log(self, loss: Tensor, terms: Terms) -> None:
        """Log the means over all processes. Other steps log nothing: each value logged makes the host wait."""
        passed = loss.new_tensor(terms.passed)
        values = {"loss": loss, "gate/passed": passed, **{f"loss/{name}": v for name, v in terms.values.items()}}
        means = torch.stack([value.detach().float() for value in values.values()])
        if self.trainer.world_size > 1:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        logged = dict(zip(values, means.unbind(), strict=True))
        self.log_dict(logged)
        if self.objective.adaptive is not None:
            self.log("adaptive_weight", self.objective.adaptive.weight)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss terms on held-out images, with the same times and noise every time; logged under `val/`."""
        terms = self.objective(self.denoise(batch, batch_idx))
        size = len(batch["image"])
        self.log_dict({f"val/{name}": value for name, value in terms.values.items()}, batch_size=size, sync_dist=True)

    def denoise(self, batch: Batch, number: int = 0) -> Prediction:
        """Corrupt the images of a batch and predict them back.

        Every random number is a function of the seed, the number of the batch and the place in the batch of all
        processes together: resuming is exact, and any number of processes draws the same. Dropout inside of the
        network is the exception: it depends on the process too.

        Args:
            batch: this process' share: every W-th image, from the one whose place is the rank.
            number: counts batches from the start of training.
        """
        x = to_float(batch["image"])
        world_size, rank = (1, 0) if self._trainer is None else (self.trainer.world_size, self.global_rank)
        total = len(x) * world_size
        common, own, *seeds = np.random.SeedSequence([self.seed, number]).generate_state(2 + total, np.uint64).tolist()
        torch.manual_seed(common)
        t = self.draw_times(total)[rank::world_size].contiguous()
        drop = (torch.rand(total) < self.condition_dropout)[rank::world_size].contiguous()
        torch.manual_seed(own ^ rank)
        t_device = t.to(x.device, non_blocking=True)
        x_t = self.corrupt(x, self.draw_noise(x, seeds[rank::world_size]), t_device)
        condition = condition_of(self.denoiser, self.text_encoder, batch, drop if self.training else None)
        x_hat, hidden = self.predict(x_t, t_device, condition)
        return Prediction(x, x_t, t, x_hat, hidden)

    def setup(self, stage: str) -> None:
        """Refuse strategies under which averages and checkpoints would be wrong."""
        refuse_unsupported(self.trainer.strategy)

    def configure_model(self) -> None:
        """Under FSDP2, split what trains over the processes (once: Lightning calls this before each of its runs)."""
        if self.device_mesh is None or any(isinstance(p, DTensor) for p in self.denoiser.parameters()):
            return
        projector = [] if self.objective.repa is None else [self.objective.repa.proj]
        shard(self.denoiser, projector, self.device_mesh["data_parallel"])

    def on_train_start(self) -> None:
        """See to it that no parameter is left to drift apart between processes."""
        check_synchronised(self, self.trainer.optimizers, self.trainer.strategy)

    def configure_optimizers(self) -> Any:
        """Optimizer over everything that trains, and the scheduler, stepped after every step."""
        optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """During warm-up, step with a share of the learning rate that the scheduler has set."""
        rates = [group["lr"] for group in optimizer.param_groups]
        ramp = min(1.0, (self.global_step + 1) / max(1, self.warmup_steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * ramp
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says. Lightning refuses fused optimizers, which matters with loss scaling (fp16) only."""
        if not gradient_clip_val or getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    # Sampling

    @torch.no_grad()
    def sample(
        self,
        condition: Condition = None,
        seeds: Sequence[int] | int = 0,
        sampler: Sampler | None = None,
        batch_size: int = 64,
        size: tuple[int, int] | None = None,
        progress: Callable[[int], None] | None = None,
        negative: str = "",
    ) -> Tensor:
        """Generate images (N, C, H, W) in about [-1, 1], on this module's device.

        An image depends on its own seed, condition and the sampler only, never on the batch it is made in.

        Args:
            condition: number of each image's class, in the order of the data's `class_names`; for a network that takes
                text, prompts or their states (N, L, E); a single one for one image per seed; None for an unconditional
                network.
            seeds: seed of each image; a single number s stands for s, s+1, … one for each condition.
            sampler: other than the module's own.
            batch_size: images made at a time.
            size: (height, width) in pixels, if not the training size.
            progress: called after each batch with the number of images made so far.
            negative: prompt that guidance leads away from; the empty one if not given.

        Raises:
            ValueError: if the network takes other conditions, or there are not as many seeds as conditions.
        """
        wanted, seeds = requests(self.denoiser, condition, seeds, self.device)
        height, width = size or (self.denoiser.image_size, self.denoiser.image_size)
        shape = (self.denoiser.in_channels, height, width)
        sampler, training = sampler or self.sampler, self.denoiser.training
        empty = null_condition(self.denoiser, self.text_encoder, sampler, negative, self.device)
        self.denoiser.eval()
        images = []
        try:
            for i in range(0, len(seeds), batch_size):
                noise = draw_noise(seeds[i : i + batch_size], shape, self.device, self.noise_scale)
                part = None if wanted is None else wanted[i : i + batch_size]
                part = encode(self.text_encoder, part, self.device) if isinstance(part, list) else part
                null = self.denoiser.null_condition(part)
                if empty is not None and part is not None:
                    null = empty.to(part).expand_as(part)
                with self._precision():
                    images.append(sampler(self.denoiser, noise, part, null))
                if progress is not None:
                    progress(min(i + batch_size, len(seeds)))
        finally:
            self.denoiser.train(training)
        return torch.cat(images)

    def _precision(self) -> AbstractContextManager[Any]:
        """The trainer's precision while one is attached; else the caller's."""
        return nullcontext() if self._trainer is None else self._trainer.precision_plugin.forward_context()
