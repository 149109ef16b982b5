"""Runs, checkpoints, exports and published checkpoints: opened once, each by the same class."""

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from pixelgen.checks import checked
from pixelgen.classes import imagenet_names
from pixelgen.config import build, read_yaml
from pixelgen.models import Denoiser
from pixelgen.module import PixelGen
from pixelgen.runs.averages import PREFIX, Profile, mix, width_of
from pixelgen.runs.checkpoints import find_weights, read_contents, run_folder
from pixelgen.runs.published import TABLE, Weights, denoiser_of, load_weights, model_config
from pixelgen.runs.trust import ForeignError, refuse_foreign
from pixelgen.samples.sampling import Average

POOR = 0.1  # relative error of a profile above which the EMA made of it is doubted


class Run:
    """A trained model where it lies: a run folder, a checkpoint, an export, or a published checkpoint; read once.

    Args:
        source: its path.
        trust: build what its config names, whatever it is; else only parts of pixelgen, torch and lightning.

    Raises:
        ValueError: if there is no readable checkpoint or export.

    Example:
        run = Run("runs/demo")
        models = {name: run.model(name) for name in run.averages}
    """

    @checked()
    def __init__(self, source: str | Path, trust: bool = False) -> None:
        self.trust = trust
        self.path = find_weights(source)
        self.contents = read_contents(self.path)
        self.published = self.contents.recipe is not None  # by the authors of PixelGen or JiT
        self.averages = [*self.contents.averages]  # names of the EMAs that are stored
        self.step = self.contents.step  # of the optimizer, None where the file does not say

    @staticmethod
    def open(source: "str | Path | Run") -> "Run":
        """The run at a path; a run that is open already stays as it is."""
        return source if isinstance(source, Run) else Run(source)

    def __str__(self) -> str:
        return str(self.path if self.published else self.folder)

    @cached_property
    def folder(self) -> Path:
        """The folder that results belong to: of the run or export, or where a published checkpoint lies."""
        folder = self.path.parent if self.published else run_folder(self.path)
        return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config, with `model` and perhaps `data`."""
        if self.contents.recipe is not None:
            return {"model": model_config(self.weights(), self.contents.recipe)}
        config = read_yaml(path := self.folder / "config.yaml")
        model = config.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("init_args", model), dict):
            raise ValueError(f"{path} has no section `model` with arguments: put the run's own config back")
        return config

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of its model, as the config says them."""
        model: dict[str, Any] = self.config["model"]
        return model.get("init_args", model)

    @property
    def sampler(self) -> dict[str, Any]:
        """Class and arguments of its sampler."""
        return self._checked(self.arguments.get("sampler") or {"class_path": "pixelgen.flow.Heun"})

    @cached_property
    def class_names(self) -> list[str] | None:
        """Names of the classes as stored with the weights, for published ones ImageNet's; None if not known."""
        weights = self.contents.raw or next(iter(self.contents.averages.values()), {})
        is_imagenet = self.published and TABLE in weights and len(weights[TABLE]) == 1001
        return imagenet_names() if is_imagenet else self.contents.class_names

    def check(self, ema: Average = True) -> str:
        """Name of an EMA that is there or can be made, such as "0.9999" or "width0.10"; "raw" for the raw weights.

        `ema` is as for `load`; errors name the EMAs that there are.
        """
        names = [*self.averages, "raw"] if self.contents.raw or not self.averages else self.averages
        name = names[0] if ema is True else "raw" if ema is False else ema if isinstance(ema, str) else repr(float(ema))
        width = width_of(name)
        if name in names:
            return name
        if width is None:
            what = "raw weights" if name == "raw" else f"average {name!r}"
            others = [other for other in names if other != "raw"] or "raw weights"
            raise ValueError(f"the checkpoint has no {what}, only {others}")
        if not 0 < width < 0.28:
            raise ValueError(f"{name} is no average: relative widths lie between 0 and 0.28")
        if not self._by_width():
            raise ValueError(
                f"{self.path} holds no averages by width to make {name} of: train with --callbacks.ema.widths "
                "[0.05,0.1] and --callbacks.checkpoint.keep_last null"
            )
        return name

    def identity(self, ema: Average = True) -> dict[str, Any]:
        """Which weights: the name of the EMA and the optimizer step, for records."""
        return {"average": self.check(ema), "step": self.step}

    def weights(self, ema: Average = True) -> Weights:
        """State dict of the denoiser: its raw weights, or with an EMA in the place of what was averaged.

        A ValueError names the first that holds values that are not finite.
        """
        weights = self._weights(ema)
        bad = next((name for name, value in weights.items() if not value.isfinite().all()), None)
        if bad is not None:
            raise ValueError(
                f"{self} holds weights that are not finite (NaN or infinite, {bad} first): "
                f"{self._origin(ema).removesuffix(f', {self}')}; take others (--ema) or an earlier checkpoint"
            )
        return weights

    def _weights(self, ema: Average) -> Weights:
        name = self.check(ema)
        if name in self.averages:
            average = self.contents.averages[name]
            return average if self.published else self.contents.raw | average
        if name != "raw":
            return self.contents.raw | self._mixed(name)
        if ema is True:
            rank_zero_warn("the checkpoint holds no averages of the weights: taking the raw ones")
        return self.contents.raw

    def _by_width(self) -> dict[Profile, Weights]:
        """EMAs by width in a checkpoint of training; exports do not tell their step."""
        step, averages = self.contents.ema_step, self.contents.averages
        return {Profile(step, width): averages[name] for name in averages if step and (width := width_of(name))}

    def _mixed(self, name: str) -> Weights:
        """The EMA of a width that nobody stored, of what the checkpoints of the run hold up to this step."""
        stored = self._by_width()
        wanted = Profile(max(profile.step for profile in stored), float(name.removeprefix(PREFIX)))
        for file in sorted((self.folder / "checkpoints").glob("step_*.ckpt")):
            stored |= {p: weights for p, weights in Run(file)._by_width().items() if p.step <= wanted.step}
        mixed, error = mix(stored, wanted)
        if error > POOR:
            rank_zero_warn(
                f"{len(stored)} stored averages make {name} with an error of {error:.0%} of its profile: keep more "
                "checkpoints, or widths nearer to it"
            )
        return mixed

    def denoiser(self, ema: Average = True) -> Denoiser:
        """The network alone, filled; on the CPU."""
        weights = self.weights(ema)
        if self.published:
            return denoiser_of(self.config["model"], weights, self.path)
        denoiser: Denoiser = self.build(Denoiser, self.arguments.get("denoiser"))
        load_weights(denoiser, weights, self.path)
        return denoiser

    def model(self, ema: Average = True, device: str | int | torch.device | None = None) -> PixelGen:
        """The model, ready to `.sample(...)`, without its losses and compilation; arguments are those of `load`.

        The text encoder of a network that takes prompts is loaded from where the config says; of a published one, from
        the hub's cache or the hub.
        """
        parts = {"denoiser": self.denoiser(ema), "objective": None, "compile_blocks": False}
        class_path = self.config["model"].get("class_path", "pixelgen.PixelGen")
        model: PixelGen = self.build(PixelGen, {"class_path": class_path, "init_args": self.arguments | parts})
        model.origin = self._origin(ema)
        model.conditioner.take_names(self.class_names)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return model.to(device).eval()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"device {device!r} cannot be used ({reason}): give cpu, or cuda with a GPU") from error

    def fill(self, model: PixelGen, ema: Average) -> None:
        """Put other weights of this run into a model of it."""
        load_weights(model.denoiser, self.weights(ema), self.path)
        model.origin = self._origin(ema)

    def _origin(self, ema: Average) -> str:
        name = self.check(ema)
        step = "" if self.step is None else f" of step {self.step}"
        return f"{'raw weights' if name == 'raw' else f'EMA {name}'}{step}, {self}"

    def build(self, kind: type[Any], config: Any, what: str = "model") -> Any:
        """Build a part of this run from its place in the config; what is foreign is refused without `trust`."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"\s*Unable to serialize instance")  # nothing of it is saved
                return build(kind, self._checked(config), what)
        except ValueError as error:
            if self.published or isinstance(error, ForeignError):
                raise
            where = self.folder / "config.yaml"
            raise ValueError(f"{where} does not describe a {what} of this version: {error}") from error

    def _checked(self, config: Any) -> Any:
        if not self.trust and not self.published:
            refuse_foreign(config, self.folder / "config.yaml")
        return config


@checked()
def load(
    source: str | Path, ema: Average = True, device: str | int | torch.device | None = None, *, trust: bool = False
) -> PixelGen:
    """A trained model, ready to `.sample(...)`: rebuilt from a run's config, without its losses.

    A published checkpoint needs no config: its weights tell the size of the network.

    Args:
        source: run folder, a checkpoint in one, an export, or a published checkpoint of PixelGen or JiT.
        ema: True for the first EMA (raw weights if there is none), False for raw weights, or the decay or name of an
            EMA; `width0.07` is computed from the EMAs by width that the checkpoints of a run hold. An export holds one:
            True is always that. PixelGen publishes `ema`, JiT `ema1` and `ema2`.
        device: where to put the model; None for a GPU if there is one, else the CPU.
        trust: build what the config names, whatever it is: a run with classes of your own needs it. By default nothing
            but parts of pixelgen, torch and lightning is imported, so that a run of somebody else executes nothing.

    Raises:
        ValueError: if there is no readable checkpoint or export, its weights do not fit its config, or that names
            something foreign.

    Example:
        model = pixelgen.load("runs/demo")
        images = model.sample(["red circle", "green star"], seeds=24)
    """
    return Run(source, trust).model(ema, device)
