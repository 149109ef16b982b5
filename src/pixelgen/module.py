"""PixelGen as a LightningModule: wires denoiser, conditioner, objective, sampler and optimizer; no mathematics."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.precision import MixedPrecision
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, ReduceLROnPlateau

from pixelgen.checks import COUNT, FROM_ZERO, POSITIVE, SEED, SHARE, checked
from pixelgen.classes import refuse_other_classes
from pixelgen.conditioner import Condition, Conditioner, Unconditional, conditioner_of
from pixelgen.distributed.fsdp import check_synchronised, refuse_unsupported, shard
from pixelgen.encoders.text import TextEncoder
from pixelgen.flow import Heun, LogitNormalTime, Sampler, TimeSampler, draw_noise, interpolate, noise_like, to_float
from pixelgen.losses import Objective, Prediction, Terms
from pixelgen.models import Denoiser
from pixelgen.schedule import Resumption, WarmUp

Batch = dict[str, Any]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def is_logging_step(trainer: Trainer, step: int) -> bool:
    """Whether what is logged at this optimizer step reaches the loggers; steps are counted from 1."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


class PixelGen(LightningModule):
    """Trains a denoiser in pixel space by x-prediction, flow matching and perceptual losses (arXiv 2602.02493).

    To change one step of training, subclass and override one of the hooks: `draw_times`, `draw_noise`, `corrupt`,
    `predict`, `combine`. Batches are dicts with `image` (uint8, or float in [-1, 1]; B, C, H, W) and, for a conditional
    denoiser, `label` (B,), or `caption` (a list of B prompts) or `text` (their embeddings; B, L, E).

    Args:
        denoiser: the network.
        objective: loss terms; null for flow matching alone.
        sampler: how images are made in previews, evaluation and `sample`.
        time: how training times are drawn.
        optimizer: called with the named parameters that train, as torch's optimizers take them; by default the
            published AdamW, lr 1e-4, betas (0.9, 0.999), no weight decay.
        scheduler: called with the optimizer and stepped after every step; null keeps the learning rate constant.
        warmup_steps: steps over which the scheduler's learning rate is multiplied by a ramp from 0 to 1.
        condition_dropout: share of labels replaced by the null class, or of prompts by the empty one, for guidance.
        noise_scale: standard deviation of the noise.
        seed: seed of times, noise and dropout; together with the step it decides every random number of a step.
        compile_blocks: compile each block of the denoiser.
        checkpoint_blocks: recompute the blocks' activations in the backward pass, to save memory.
        text_encoder: turns prompts into text embeddings for a denoiser that takes them; null for none.
        conditioner: what images are made from: `auto` for what the denoiser asks for (classes, text or nothing), one of
            your own by class path, or null for nothing.

    Raises:
        ValueError: naming the part that is missing, or does not fit another.
    """

    origin = ""  # where the weights came from, for people

    @checked(warmup_steps=FROM_ZERO, condition_dropout=SHARE, noise_scale=POSITIVE, seed=FROM_ZERO)
    def __init__(
        self,
        denoiser: Denoiser,
        objective: Objective | None = None,
        sampler: Sampler = Heun(),
        time: TimeSampler = LogitNormalTime(),
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=True),
        scheduler: LRSchedulerCallable | None = None,
        warmup_steps: int = 0,
        condition_dropout: float = 0.1,
        noise_scale: float = 1.0,
        seed: int = 0,
        compile_blocks: bool = False,
        checkpoint_blocks: bool = False,
        text_encoder: TextEncoder | None = None,
        conditioner: Conditioner | Literal["auto"] | None = "auto",
    ) -> None:
        super().__init__()
        if text_encoder is not None and conditioner != "auto":
            raise ValueError("model.text_encoder and model.conditioner are both given: a conditioner holds its own")
        self.denoiser = denoiser
        if conditioner == "auto":
            conditioner = conditioner_of(denoiser, text_encoder)
        self.conditioner = Unconditional() if conditioner is None else conditioner
        self.conditioner.check(denoiser)
        self.objective = Objective() if objective is None else objective
        self.objective.connect(denoiser, time)
        self.sampler = sampler
        self.time = time
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.warmup_steps = warmup_steps
        self.condition_dropout = condition_dropout
        self.noise_scale = noise_scale
        self.seed = seed
        self._resumption = Resumption()
        if checkpoint_blocks:
            self.denoiser.require("model.checkpoint_blocks", "blocks")
        self.denoiser.checkpoint_blocks = checkpoint_blocks
        if compile_blocks:
            self.denoiser.compile_blocks()

    def __repr__(self) -> str:
        """What one wants to know of a model, in a few lines; `model.denoiser` prints its layers."""
        network, million = self.denoiser, sum(p.numel() for p in self.denoiser.parameters()) / 1e6
        condition = type(self.conditioner).__name__.lower()
        if network.num_classes is not None:
            condition = f"{network.num_classes} classes"
        lines = [
            f"{type(self).__name__}: {type(network).__name__}, {million:.1f} M parameters, {network.image_size} px, "
            f"{condition}",
            f"  sampler: {self.sampler}",
            *([f"  weights: {self.origin}"] if self.origin else []),
            *([f"  losses: {', '.join(self.objective.terms)}"] if self._trainer is not None else []),
        ]
        return "\n".join(lines)

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
        layer: Any = None if self.objective.adaptive is None else self.denoiser.last_layer
        return self.objective.combine(terms, self.global_step, None if layer is None else layer.weight)

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
        condition = self.conditioner.from_batch(batch)
        if self.training:
            condition = self.conditioner.drop(condition, drop)
        x_hat, hidden = self.predict(x_t, t_device, condition)
        return Prediction(x, x_t, t, x_hat, hidden)

    def setup(self, stage: str) -> None:
        """Refuse data that does not fit, and strategies that would spoil checkpoints; take names of classes."""
        refuse_unsupported(self.trainer.strategy)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and hasattr(data, "num_classes"):
            self.conditioner.check_data(self.denoiser, data)
        self.conditioner.take_names(getattr(data, "class_names", None))

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes in the order of their numbers; None if neither data nor weights have told them."""
        return self.conditioner.class_names

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the numbers of classes mean."""
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse data of other classes than those of the checkpoint, and keep its schedules from the present ones."""
        refuse_other_classes(checkpoint.get("class_names"), self.class_names)
        self.conditioner.take_names(checkpoint.get("class_names"))
        self._resumption.take_schedules(checkpoint)

    def configure_model(self) -> None:
        """Under FSDP2, split what trains over the processes (once: Lightning calls this before each of its runs)."""
        if self.device_mesh is None or any(isinstance(p, DTensor) for p in self.denoiser.parameters()):
            return
        terms = [term for term in self.objective.terms.values() if isinstance(term, torch.nn.Module)]
        others = [module for term in terms for module in term.children() if any(True for _ in module.parameters())]
        shard(self.denoiser, others, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Note the settings of the optimizer, before those of a checkpoint take their place."""
        self._resumption.note(self.trainer)

    def on_train_start(self) -> None:
        """See to it that a resumed run has its own settings, and that no parameter drifts apart between processes."""
        self._resumption.apply(self.trainer)
        check_synchronised(self, self.trainer.optimizers, self.trainer.strategy)

    def configure_optimizers(self) -> Any:
        """Optimizer over everything that trains, and the scheduler, stepped after every step."""
        try:
            optimizer = self.optimizer([(name, p) for name, p in self.named_parameters() if p.requires_grad])
        except ValueError as error:
            raise ValueError(f"model.optimizer refuses its options ({error}): correct them") from error
        if not any(group["lr"] for group in optimizer.param_groups):
            raise ValueError("model.optimizer.lr is 0, and nothing would be learned: give a number above 0")
        if self.scheduler is None and not self.warmup_steps:
            return optimizer
        schedule: Any = ConstantLR(optimizer, factor=1.0) if self.scheduler is None else self.scheduler(optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            raise ValueError("model.scheduler cannot be ReduceLROnPlateau: rates are set after every step, by steps")
        if self.warmup_steps:
            schedule = WarmUp(schedule, self.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

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

    @checked(seeds=SEED, batch_size=COUNT, size=COUNT)
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
        precision: Precision | None = None,
    ) -> Tensor:
        """Generate images (N, C, H, W), float32 in about [-1, 1], on this module's device.

        An image depends on its own seed, condition and the sampler only, never on the batch it is made in.

        Args:
            condition: number or name of each image's class, as `--classes` reads them; for a network that takes text,
                prompts or their embeddings (N, L, E); a single one for one image per seed; None for an unconditional
                network.
            seeds: seed of each image; a single number s stands for s, s+1, … one for each condition.
            sampler: other than the module's own.
            batch_size: images made at a time.
            size: (height, width) in pixels, if not the training size.
            progress: called after each batch with the number of images made so far.
            negative: prompt that guidance leads away from; the empty one if not given.
            precision: of the network: `bf16-mixed` is what `python -m pixelgen.sample` uses. If not given, the
                trainer's while one is attached, else that of the weights, under the caller's autocast if there is one.

        Raises:
            ValueError: if the network takes other conditions, or there are not as many seeds as conditions.

        Example:
            model = pixelgen.load("runs/demo")
            images = model.sample(["red circle", "green star"], seeds=24)
        """
        requests = self.conditioner.parse(condition, 1 if isinstance(seeds, int) else len(seeds))
        seeds = _seeds(seeds, requests)
        sampler, training = sampler or self.sampler, self.denoiser.training
        self.conditioner.check_negative(sampler, negative)
        self.denoiser.eval()
        images = []
        try:
            for i in range(0, len(seeds), batch_size):
                part = None if requests is None else requests[i : i + batch_size]
                with self._precision(precision):
                    images.append(self._sample(part, seeds[i : i + batch_size], sampler, size, negative))
                if progress is not None:
                    progress(min(i + batch_size, len(seeds)))
        finally:
            self.denoiser.train(training)
        return torch.cat(images)

    def _sample(
        self, requests: Any, seeds: Sequence[int], sampler: Sampler, size: tuple[int, int] | None, negative: str
    ) -> Tensor:
        height, width = size or (self.denoiser.image_size, self.denoiser.image_size)
        noise = draw_noise(seeds, (self.denoiser.in_channels, height, width), self.device, self.noise_scale)
        condition, null = self.conditioner.encode(requests, self.device), None
        if condition is not None and getattr(sampler, "guided", False):
            null = self.conditioner.null(condition, negative)
        return sampler(self.denoiser, noise, condition, null)

    def _precision(self, precision: Precision | None) -> AbstractContextManager[Any]:
        """That of half-precision weights; else what was asked for; else the trainer's, or the caller's."""
        device, kind = self.device.type, next(self.denoiser.parameters()).dtype
        if kind in (torch.bfloat16, torch.float16):  # weights in half precision: mixed, as noise stays in float32
            return torch.autocast(device, kind)
        if precision is None:
            return nullcontext() if self._trainer is None else self._trainer.precision_plugin.forward_context()
        if precision == "32-true":
            return nullcontext()
        mixed: Any = "bf16-mixed" if device == "cpu" else precision  # as Lightning does: no float16 on CPUs
        return MixedPrecision(mixed, device).forward_context()


def _seeds(seeds: Sequence[int] | int, requests: Sequence[Any] | Tensor | None) -> list[int]:
    """One seed for each request."""
    number = 1 if requests is None and isinstance(seeds, int) else len(seeds if requests is None else requests)  # type: ignore[arg-type]
    found = list(range(seeds, seeds + number)) if isinstance(seeds, int) else list(seeds)
    if len(found) != number:
        raise ValueError(f"there are {number} conditions but {len(found)} seeds: give one seed for each")
    return found
