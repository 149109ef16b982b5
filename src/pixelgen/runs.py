"""Run folders: where a run lives, and how a trained model comes back from one."""

from __future__ import annotations

from argparse import ArgumentError
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from pixelgen.messages import one_sentence
from pixelgen.models import Denoiser
from pixelgen.module import PixelGen

Average = bool | float | str


def unused_folder(wanted: Path) -> Path:
    """`wanted`, or `wanted-2`, `wanted-3`, … : the first that does not exist or is empty. Nothing is created."""
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return folder
    raise AssertionError


def find_checkpoint(source: str | Path) -> Path:
    """The checkpoint that a path stands for: the file itself, or the newest one of a run folder.

    Raises:
        ValueError: if there is none.
    """
    path = Path(source)
    if path.is_file():
        return path
    last = path / "checkpoints" / "last.ckpt"
    if last.exists():
        return last
    what = "has no checkpoints/last.ckpt" if path.is_dir() else "does not exist"
    raise ValueError(f"{path} {what}: give a run folder with a saved checkpoint, or a checkpoint file")


def run_folder(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in.

    Raises:
        ValueError: if the checkpoint lies elsewhere.
    """
    folder = checkpoint.resolve().parent.parent
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"there is no config.yaml beside {checkpoint}: keep checkpoints in their run folder")
    return folder


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents on the CPU; tensors and primitives only, nothing in it is executed.

    Raises:
        ValueError: if the file is not a complete checkpoint.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise ValueError(f"{path} is not a readable checkpoint ({type(error).__name__}: {error})") from error
    if "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of pixelgen: it has no state_dict")
    return checkpoint


def denoiser_weights(checkpoint: dict[str, Any], ema: Average) -> dict[str, Tensor]:
    """The denoiser's state dict in a checkpoint: raw, or with one of its averages in place of what was averaged.

    Args:
        checkpoint: contents of a checkpoint.
        ema: False for raw weights, True for the first average (raw if there is none), or a decay or name of one.

    Raises:
        ValueError: if there is no such average.
    """
    weights = _below("denoiser.", checkpoint["state_dict"])
    averages: dict[str, dict[str, Tensor]] = checkpoint.get("callbacks", {}).get("EMA", {}).get("averages", {})
    released = _below("ema_denoiser.", checkpoint["state_dict"])  # the authors keep theirs beside the raw weights
    if released:
        averages = {"ema": released}
    if ema is False:
        return weights
    if ema is True and not averages:
        rank_zero_warn("the checkpoint holds no averages of the weights: taking the raw ones")
        return weights
    name = next(iter(averages)) if ema is True else ema if isinstance(ema, str) else repr(float(ema))
    if name not in averages:
        raise ValueError(f"the checkpoint has no average {name!r}, only {list(averages) or 'raw weights'}")
    return weights | averages[name]


def start_from(model: PixelGen, source: str | Path) -> None:
    """Fill a new model from a run folder or checkpoint: the first average of the denoiser, and REPA's projector.

    The whole denoiser must fit. A projector that does not fit, or is not there, starts anew, with a warning.

    Raises:
        ValueError: naming the first parameters that are missing, unexpected, or of another shape.
    """
    path = find_checkpoint(source)
    checkpoint = read_checkpoint(path)
    fill_denoiser(model.denoiser, denoiser_weights(checkpoint, True), path)
    own = model.objective.state_dict()
    theirs = _below("objective.", checkpoint["state_dict"])
    if own and {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in theirs.items()}:
        model.objective.load_state_dict(theirs)
    elif own:
        rank_zero_warn(f"{path} does not hold the objective's own weights ({next(iter(own))}, …): they start anew")


def fill_denoiser(denoiser: Denoiser, weights: dict[str, Tensor], path: Path) -> None:
    """Copy weights into a denoiser; `path` is where they came from, for the message if they do not fit."""
    own = denoiser.state_dict()
    problems = [f"{key} is missing" for key in own if key not in weights]
    problems += [f"{key} is unexpected" for key in weights if key not in own]
    problems += [
        f"{key} is {tuple(value.shape)} there, {tuple(own[key].shape)} here"
        for key, value in weights.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"the weights in {path} are of another network: {'; '.join(problems[:3])}{more}")
    denoiser.load_state_dict(weights)


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def load(source: str | Path, ema: Average = True, device: str | torch.device | None = None) -> PixelGen:
    """A trained model, ready to `.sample(...)`: rebuilt from a run's config, without its losses.

    Args:
        source: run folder, or a checkpoint in one.
        ema: True for the first average of the weights (raw if there is none), False for raw weights, or the decay or
            name of an average.
        device: where to put the model; None for a GPU if there is one, else the CPU.

    Raises:
        ValueError: if the run has no readable checkpoint, or its weights do not fit its config.
    """
    path = find_checkpoint(source)
    weights = denoiser_weights(read_checkpoint(path), ema)
    model = model_of_run(run_folder(path))
    fill_denoiser(model.denoiser, weights, path)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def model_of_run(folder: Path) -> PixelGen:
    """The model that a run's config describes, with new weights, without losses and compilation.

    Raises:
        ValueError: if the config does not describe a model.
    """
    path = folder / "config.yaml"
    with path.open() as file:
        config: dict[str, Any] = yaml.safe_load(file)["model"]
    arguments = config.get("init_args", config)
    arguments |= {"objective": None, "compile_blocks": False}  # sampling needs neither
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=PixelGen)
    try:
        model: PixelGen = parser.instantiate(parser.parse_object({"model": config})).model
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{path} does not describe a model of this version: {one_sentence(error)}") from error
    return model
