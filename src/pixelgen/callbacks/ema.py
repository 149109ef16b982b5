"""Exponential moving averages of the denoiser's weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from pixelgen.checks import COUNT, Range, checked
from pixelgen.module import PixelGen
from pixelgen.runs.averages import power_function_gamma
from pixelgen.samples.sampling import Average

Weights = dict[str, Tensor]  # by parameter name


class EMA(Callback):
    """Averages of the denoiser's trainable weights: constant decays and EDM2 power functions, any number at once.

    Averages are float32, advance once per optimizer step, are stored in checkpoints beside the raw weights, and
    take the raw weights' place during validation and in `with ema.average(pl_module): ...`. List this callback
    before those that sample, so that they see the newest average.

    Args:
        decays: decay per optimizer step of each constant average.
        widths: relative width of each power-function average (EDM2 uses 0.05 and 0.10).
        every_n_steps: optimizer steps between two updates; the decay accounts for it.
        evaluate: validate with the first average instead of the raw weights.
        warmup: limit each decay to (1 + step) / (10 + step), so that averages of short runs forget the start.
    """

    @checked(decays=Range(0, 1, below=True), widths=Range(0.001, 0.28, below=True), every_n_steps=COUNT)
    def __init__(
        self,
        decays: Sequence[float] = (0.9999,),
        widths: Sequence[float] = (),
        every_n_steps: int = 1,
        evaluate: bool = True,
        warmup: bool = False,
    ) -> None:
        if not decays and not widths:
            raise ValueError("there is nothing to average: give `decays` or `widths`, or leave out the callback")
        self._decays = {repr(float(decay)): float(decay) for decay in decays}
        self._gammas = {_width_name(width): power_function_gamma(width) for width in widths}
        self.every_n_steps, self.evaluate, self.warmup = every_n_steps, evaluate, warmup
        self._shadows: dict[str, Weights] = {}
        self._loaded: dict[str, Weights] | None = None  # those of a checkpoint, until there are parameters
        self._raw: Weights = {}
        self._active: str | None = None
        self._step = 0  # optimizer step of the last update

    @property
    def names(self) -> list[str]:
        """Names of the averages, such as ["0.9999", "width0.10"]; the first is the one used by default."""
        return [*self._decays, *self._gammas]

    def beta(self, name: str, step: int, dt: int = 1) -> float:
        """How much of an average survives an update at optimizer step `step` that covers `dt` steps."""
        if name in self._gammas:
            return float((1 - dt / step) ** (self._gammas[name] + 1))
        decay = self._decays[name]
        return float((min(decay, (1 + step) / (10 + step)) if self.warmup else decay) ** dt)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _create(self, parameters: dict[str, nn.Parameter]) -> None:
        """Fill the averages from the checkpoint, if one was loaded; if there are none yet, from the present weights."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            self._shadows = {name: _placed(loaded[name], parameters, name) for name in self.names}
        elif not self._shadows:
            self._shadows = {
                name: {key: value.detach().to(torch.float32, copy=True) for key, value in parameters.items()}
                for name in self.names
            }

    @torch.no_grad()
    def update(self, pl_module: PixelGen, step: int) -> None:
        """Move every average towards the present weights, which `step` optimizer steps have made."""
        if self._active is not None:
            raise RuntimeError(f"cannot average while the weights are swapped for average {self._active!r}")
        parameters = _parameters(pl_module)
        for name, shadow in self._shadows.items():
            weights = [parameters[key].to(value.dtype) for key, value in shadow.items()]
            torch._foreach_lerp_(list(shadow.values()), weights, 1 - self.beta(name, step, step - self._step))
        self._step = step

    @contextmanager
    def average(self, pl_module: PixelGen, ema: Average = True) -> Iterator[None]:
        """Put an average (see `resolve`) in the place of the weights, and these back afterwards, also on an error."""
        former = self._active
        self._activate(pl_module, self.resolve(ema))
        try:
            yield
        finally:
            self._activate(pl_module, former)

    def resolve(self, ema: Average) -> str | None:
        """The name of an average, or None for the raw weights, where it exists; else a ValueError.

        True is the first one, false or `raw` the raw weights; others go by their name or decay.
        """
        if isinstance(ema, bool) or ema == "raw":
            return self.names[0] if ema is True else None
        name = ema if isinstance(ema, str) else repr(float(ema))
        if name not in self.names:
            raise ValueError(f"there is no average {name!r}: this run has {self.names}")
        return name

    @torch.inference_mode(False)  # copies made in inference mode could never train again
    @torch.no_grad()
    def _activate(self, pl_module: PixelGen, name: str | None) -> None:
        if name == self._active:
            return
        parameters = _parameters(pl_module)
        if self._active is None:
            self._create(parameters)
            self._raw = {key: value.detach().clone() for key, value in parameters.items()}
        source = self._raw if name is None else self._shadows[name]
        for key, parameter in parameters.items():
            parameter.copy_(source[key])
        self._active = name
        if name is None:
            self._raw = {}

    def on_train_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Start over where nothing has brought averages of this step: in a fresh run, or a checkpoint without them."""
        behind = trainer.global_step - self._step
        fresh = trainer.global_step == 0 or not 0 <= behind < self.every_n_steps
        if self._loaded is None and fresh:
            self._shadows, self._step = {}, trainer.global_step
        self._create(_parameters(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: PixelGen, *args: Any) -> None:
        """Update after every n-th optimizer step; batches that only accumulate gradients do not count."""
        if trainer.global_step - self._step >= self.every_n_steps:
            self.update(pl_module, trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Validate with the first average: of this run, or of the checkpoint that `trainer.validate` has loaded."""
        if self.evaluate and (self._shadows or self._loaded) and not trainer.sanity_checking:
            self._activate(pl_module, self.names[0])

    def on_validation_end(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Put the raw weights back."""
        self._activate(pl_module, None)

    def on_exception(self, trainer: Trainer, pl_module: PixelGen, exception: BaseException) -> None:
        """Put the raw weights back."""
        self._activate(pl_module, None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: PixelGen, checkpoint: dict[str, Any]) -> None:
        """Checkpoints hold the raw weights under `state_dict`, also when saved during validation."""
        state = checkpoint["state_dict"]
        stored = {key.replace("_orig_mod.", ""): key for key in state}
        for key, raw in self._raw.items():
            place = stored.get(f"denoiser.{key}")  # missing on all ranks but 0 when shards are gathered
            value = raw if place is not None and isinstance(state[place], DTensor) else _full(raw)
            if place is not None:
                state[place] = value

    def state_dict(self) -> dict[str, Any]:
        """Full tensors and primitives, copied to the CPU so that later steps cannot change them.

        They are the optimizer `step` of the last update and the `averages` by name, as `pixelgen.runs.run` reads them
        under `callbacks`, `EMA` of a checkpoint. Where the averages are in shards, all ranks must call this; only rank
        0 keeps what is gathered.
        """
        averages = self._shadows if self._loaded is None else self._loaded
        copies: dict[str, Weights] = {name: {} for name in averages}
        for name, shadow in averages.items():
            for key, value in shadow.items():
                full = _full(value)  # one tensor at a time
                if not isinstance(value, DTensor) or value.device_mesh.get_rank() == 0:
                    copies[name][key] = full.to("cpu", copy=True)
        return {"step": self._step, "averages": copies}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the averages of a checkpoint; a ValueError if they are others than this callback was asked for."""
        stored = list(state_dict["averages"])
        if set(stored) != set(self.names):
            raise ValueError(
                f"the checkpoint holds the averages {stored}, not {self.names}: resume with the same decays and "
                "widths, or start a new run from its weights"
            )
        self._step, self._loaded = state_dict["step"], state_dict["averages"]


def _width_name(width: float) -> str:
    return f"width{width:.2f}" if round(width, 2) == width else f"width{width!r}"


def _parameters(pl_module: PixelGen) -> dict[str, nn.Parameter]:
    """Trainable parameters of the denoiser, sharded ones in shards, without the marks that compilation leaves."""
    for module in pl_module.denoiser.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    named = pl_module.denoiser.named_parameters()
    return {name.replace("_orig_mod.", ""): value for name, value in named if value.requires_grad}


def _placed(loaded: Weights, parameters: dict[str, nn.Parameter], name: str) -> Weights:
    """Full tensors of a checkpoint, on the devices and in the shards of the parameters they belong to."""
    if loaded.keys() != parameters.keys():
        differing = sorted(loaded.keys() ^ parameters.keys())
        raise ValueError(
            f"average {name!r} of the checkpoint belongs to another network (differing parameters: "
            f"{differing[:3]}{' ...' if len(differing) > 3 else ''}): build the network it was trained with"
        )
    placed = {}
    for key, parameter in parameters.items():
        value = loaded[key].to(parameter.device, torch.float32, copy=True)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        placed[key] = value
    return placed


def _full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
