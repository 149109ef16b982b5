"""Runs, checkpoints, exports and published checkpoints: opened once, each by the same class."""

from __future__ import annotations

import re
import shutil
import warnings
from argparse import Namespace
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pixelgen.config import build, read_yaml
from pixelgen.distributed.fsdp import is_sharded, read_shards
from pixelgen.files import atomic
from pixelgen.models import Denoiser
from pixelgen.module import PixelGen
from pixelgen.runs.averages import PREFIX, Profile, mix, width_of
from pixelgen.runs.published import (
    Contents,
    Weights,
    below,
    check_weights,
    convert_keys,
    denoiser_of,
    load_weights,
    model_config,
)
from pixelgen.samples.sampling import Average

EXPORT = "model.safetensors"
EXPORT_FORMAT = "pixelgen-1"  # the file's metadata has it beside the name of its `average` and the `step`
POOR = 0.1  # relative error of a profile above which the EMA made of it is doubted


class Run:
    """A trained model where it lies: a run folder, a checkpoint, an export, or a published checkpoint; read once.

    Args:
        source: its path.

    Raises:
        ValueError: if there is no readable checkpoint or export.

    Example:
        run = Run("runs/demo")
        models = {name: run.model(name) for name in run.averages}
    """

    def __init__(self, source: str | Path) -> None:
        self.path = find_weights(source)
        self.contents = read_contents(self.path)

    @staticmethod
    def open(source: str | Path | Run) -> Run:
        """The run at a path; a run that is open already stays as it is."""
        return source if isinstance(source, Run) else Run(source)

    def __str__(self) -> str:
        return str(self.path if self.published else self.folder)

    @property
    def published(self) -> bool:
        """Whether it is a published checkpoint of PixelGen or JiT."""
        return self.contents.recipe is not None

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
        return read_yaml(self.folder / "config.yaml")

    @property
    def sampler(self) -> dict[str, Any]:
        """Class and arguments of its sampler, as configs say it."""
        return self._arguments(self.config["model"]).get("sampler") or {"class_path": "pixelgen.flow.Heun"}

    def class_names(self) -> list[str]:
        """Names of the classes, from the data that the run was trained on.

        Raises:
            ValueError: if the source does not tell, or the data is not there any more.
        """
        if "data" not in self.config:
            raise ValueError(f"{self.path} does not tell the names of its classes")
        try:
            data: Any = build(LightningDataModule, self.config["data"], "data")
        except ValueError as error:
            raise ValueError(f"the data of the run cannot tell class names ({error})") from error
        if data.class_names is None:
            raise ValueError("the data of the run has no classes")
        return list(data.class_names)

    # Weights

    @property
    def averages(self) -> list[str]:
        """Names of the EMAs that are stored."""
        return [*self.contents.averages]

    @property
    def step(self) -> int | None:
        """Optimizer step, None where the file does not say."""
        return self.contents.step

    def check(self, ema: Average = True) -> str:
        """Name of an EMA, such as "0.9999" or "width0.10"; "raw" for the raw weights.

        Args:
            ema: True for the first EMA (raw if there is none), False for the raw weights, or the decay or name of an
                EMA; a width that nobody stored is made of those that the checkpoints of the run hold.

        Raises:
            ValueError: if there is no such EMA, and it cannot be made.
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

        `ema` and errors are those of `check`.
        """
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
        step = self.contents.ema_step
        widths = {name: width_of(name) for name in self.averages if step}
        found = self.contents.averages
        return {Profile(step or 0, width): found[name] for name, width in widths.items() if width is not None}

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

    # Networks

    def denoiser(self, ema: Average = True) -> Denoiser:
        """The network alone, filled; on the CPU."""
        weights = self.weights(ema)
        if self.published:
            return denoiser_of(weights, self.path)
        denoiser = self._build(Denoiser, self._arguments(self.config["model"]).get("denoiser"))
        load_weights(denoiser, weights, self.path)
        return denoiser

    def model(self, ema: Average = True, device: str | torch.device | None = None) -> PixelGen:
        """The model, ready to `.sample(...)`, without its losses and compilation.

        The text encoder of a network that takes prompts is loaded from where the config says; of a published one, from
        the hub's cache or the hub.

        Args:
            ema: as for `check`.
            device: where to put the model; None for a GPU if there is one, else the CPU.

        Raises:
            ValueError: if there is no such EMA, or its weights do not fit the config.
        """
        config = deepcopy(self.config["model"])
        changes = {"denoiser": self.denoiser(ema), "objective": None, "compile_blocks": False}
        self._arguments(config).update(changes)
        model: PixelGen = self._build(PixelGen, config)
        model.origin = self._origin(ema)
        return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    def fill(self, model: PixelGen, ema: Average) -> None:
        """Put other weights of this run into a model of it."""
        load_weights(model.denoiser, self.weights(ema), self.path)
        model.origin = self._origin(ema)

    def _origin(self, ema: Average) -> str:
        name = self.check(ema)
        step = "" if self.step is None else f" of step {self.step}"
        return f"{'raw weights' if name == 'raw' else f'EMA {name}'}{step}, {self}"

    @staticmethod
    def _arguments(section: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = section.get("init_args", section)
        return found

    def _build(self, kind: type[Any], config: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"\s*Unable to serialize instance")  # nothing of it is saved
                return build(kind, config, "model")
        except ValueError as error:
            if self.published:
                raise
            where = self.folder / "config.yaml"
            raise ValueError(f"{where} does not describe a model of this version: {error}") from error


def load(source: str | Path, ema: Average = True, device: str | torch.device | None = None) -> PixelGen:
    """A trained model, ready to `.sample(...)`: rebuilt from a run's config, without its losses.

    A published checkpoint needs no config: its weights tell the size of the network.

    Args:
        source: run folder, a checkpoint in one, an export, or a published checkpoint of PixelGen or JiT.
        ema: True for the first EMA (raw weights if there is none), False for raw weights, or the decay or name of an
            EMA; `width0.07` is computed from the EMAs by width that the checkpoints of a run hold. An export holds one:
            True is always that. PixelGen publishes `ema`, JiT `ema1` and `ema2`.
        device: where to put the model; None for a GPU if there is one, else the CPU.

    Raises:
        ValueError: if there is no readable checkpoint or export, or its weights do not fit its config.

    Example:
        model = pixelgen.load("runs/demo")
        images = model.sample([0, 11, 22, 33], seeds=24)
    """
    return Run(source).model(ema, device)


def check_resumable(model: PixelGen, path: Path) -> None:
    """Refuse to resume a checkpoint with another network; one in shards is looked at by FSDP2 alone.

    Raises:
        ValueError: naming the first parameters that are missing, unexpected, or of another shape, or the setting that
            differs.
    """
    if not is_sharded(path):
        run = Run(path)
        check_weights(model.denoiser, run.contents.raw, path)
        check_settings(model.denoiser, run)


def check_settings(denoiser: Denoiser, run: Run) -> None:
    """Refuse a denoiser that has another setting than that of a run, where no shape would show it.

    Raises:
        ValueError: naming the setting.
    """
    try:
        with torch.device("meta"):
            theirs = build(Denoiser, Run._arguments(run.config["model"]).get("denoiser"), "denoiser")
    except ValueError:  # a class that is gone, or a size that was never published: its shapes were compared
        return
    for name in ("in_context_start",):
        found, own = getattr(theirs, name, None), getattr(denoiser, name, None)
        if getattr(denoiser, "in_context_len", 0) and None not in (found, own) and found != own:
            raise ValueError(
                f"the network of {run} has {name} {found}, and this one {own}: set model.denoiser.{name} to {found}"
            )


# Paths


def find_checkpoint(source: str | Path) -> Path:
    """The checkpoint that a path stands for: the file itself, or the newest one of a run folder.

    Raises:
        ValueError: if there is none, or only an export, which cannot be resumed.
    """
    path = find_weights(source)
    if _is_export(path):
        raise ValueError(f"{path} holds weights only, not what resuming needs: start a new run with --init_from")
    return path


def find_weights(source: str | Path) -> Path:
    """The checkpoint or export that a path stands for: the file itself, or the one in a run or export folder.

    Raises:
        ValueError: if there is none.
    """
    path = Path(source)
    if path.is_file() or is_sharded(path):
        return path
    for file in (path / "checkpoints" / "last.ckpt", path / EXPORT):
        if file.exists():
            return file
    what = f"has neither checkpoints/last.ckpt nor {EXPORT}" if path.is_dir() else "does not exist"
    raise ValueError(f"{path} {what}: give a run folder with a saved checkpoint, a checkpoint file, or an export")


def run_folder(path: Path) -> Path:
    """The folder with the config of a checkpoint or export: the run that it lies in, or the export's own.

    Raises:
        ValueError: if there is no config.
    """
    # download caches link the files of an export to elsewhere, each on its own
    folder = path.absolute().parent if _is_export(path) else path.resolve().parent.parent
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{path} has no {folder / 'config.yaml'}: keep checkpoints in their run, exports with theirs")
    return folder


def _is_export(path: Path) -> bool:
    return path.suffix == ".safetensors"


# Files


def read_contents(path: Path) -> Contents:
    """Contents of a checkpoint or export, on the CPU; tensors and primitives only, nothing in it is executed.

    Tensors are mapped from the file where its format allows it: what nobody uses is never read.

    Raises:
        ValueError: if the file is not a complete checkpoint or export, or needs Python objects.
    """
    try:
        if _is_export(path):
            return _read_export(path)
        if is_sharded(path):
            checkpoint: Any = read_shards(path)
        else:
            with torch.serialization.safe_globals([Namespace]):  # JiT keeps its arguments in one; it runs nothing
                checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise _unreadable(path, error) from error
    published = convert_keys(checkpoint) if isinstance(checkpoint, dict) else None
    if published is not None:
        return published
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of pixelgen, nor a published one of PixelGen or JiT")
    state, ema = checkpoint["state_dict"], checkpoint.get("callbacks", {}).get("EMA", {})
    raw, objective = below("denoiser.", state), below("objective.", state)
    return Contents(raw, ema.get("averages", {}), objective, checkpoint.get("global_step"), ema.get("step"))


def _read_export(path: Path) -> Contents:
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        if about.get("format") != EXPORT_FORMAT:
            raise ValueError(f"its format is {about.get('format')!r}, not {EXPORT_FORMAT!r}")
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no dict
    return Contents({}, {about["average"]: weights}, step=int(about["step"]) if about["step"].isdecimal() else None)


def _unreadable(path: Path, error: Exception) -> ValueError:
    if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return ValueError(
            f"{path} holds Python objects that cannot be loaded safely ({unsafe[1]}, …): save its state dicts alone, "
            "once and in a sandbox, as docs/published.md shows"
        )
    return ValueError(f"{path} is not a readable checkpoint or export ({type(error).__name__}: {error})")


def refuse_used(folder: Path) -> None:
    """Refuse to write an export into a folder that holds one, or a config.

    Raises:
        ValueError: naming what is there.
    """
    if taken := [name for name in (EXPORT, "config.yaml") if (folder / name).exists()]:
        raise ValueError(f"{folder} holds {' and '.join(taken)} already: give another folder as --to")


def write_export(folder: Path, weights: Weights, identity: dict[str, Any], config: str) -> Path:
    """Write weights as an export, and the config beside them; both or nothing.

    Args:
        folder: to write into.
        weights: of the denoiser.
        identity: name of the EMA and the step, as `Run.identity` says it.
        config: text of the config.

    Returns:
        The file of weights.

    Raises:
        ValueError: if the folder cannot be written.
    """
    about = {"format": EXPORT_FORMAT, **{key: str(value) for key, value in identity.items()}}
    # copies, since the format allows neither tied nor strided ones
    copies = {key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
    fix = "free some space or give another --to"
    with atomic(folder / "config.yaml", fix) as text, atomic(folder / EXPORT, fix) as file:
        text.write_text(config, encoding="utf-8")
        try:
            save_file(copies, file, about)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        shutil.copymode(text, file)  # safetensors lets nobody but the owner read its files
    return folder / EXPORT
