"""Checkpoints of runs, and exports: how a trained model leaves its run and comes back."""

from __future__ import annotations

import shutil
from argparse import ArgumentError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pixelgen.config import one_sentence
from pixelgen.distributed.fsdp import is_sharded, read_shards
from pixelgen.module import PixelGen
from pixelgen.runs.published import (
    Weights,
    below,
    fill_denoiser,
    in_our_shape,
    model_of,
    refuse_other_network,
    unreadable,
)
from pixelgen.runs.transfer import transferred
from pixelgen.samples.sampling import Average

EXPORT = "model.safetensors"
EXPORT_FORMAT = "pixelgen-1"  # the file's metadata has it beside the name of its `average` and the `step`


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


def _is_export(path: Path) -> bool:
    return path.suffix == ".safetensors"


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a checkpoint or export, on the CPU; tensors and primitives only, nothing in it is executed.

    Tensors are mapped from the file where its format allows it: what nobody uses is never read. An export reads as a
    checkpoint that holds one average and nothing else, a published checkpoint as `in_our_shape` says.

    Raises:
        ValueError: if the file is not a complete checkpoint or export, or needs Python objects.
    """
    try:
        if _is_export(path):
            return _read_export(path)
        if is_sharded(path):
            return read_shards(path)
        with torch.serialization.safe_globals([Namespace]):  # JiT keeps its arguments in one; it runs nothing
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise unreadable(path, error) from error
    ours = in_our_shape(checkpoint) if isinstance(checkpoint, dict) else {}
    if "state_dict" not in ours:
        raise ValueError(f"{path} is not a checkpoint of pixelgen, nor a published one of PixelGen or JiT")
    return ours


def _read_export(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        if about.get("format") != EXPORT_FORMAT:
            raise ValueError(f"its format is {about.get('format')!r}, not {EXPORT_FORMAT!r}")
        averages = {about["average"]: {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118, no dict
    return {"state_dict": {}, "callbacks": {"EMA": {"averages": averages}}, "global_step": about["step"]}


def denoiser_weights(checkpoint: dict[str, Any], ema: Average) -> Weights:
    """The denoiser's state dict in a checkpoint: raw, or with one of its averages in place of what was averaged.

    `ema` and errors are those of `average_name`.
    """
    return _weights_by_name(checkpoint)[average_name(checkpoint, ema)]


def average_name(checkpoint: dict[str, Any], ema: Average) -> str:
    """Name of an average in a checkpoint, such as "0.9999" or "width0.10"; "raw" for the raw weights.

    Args:
        checkpoint: contents of a checkpoint.
        ema: False for raw weights, True for the first average (raw if there is none), or a decay or name of one.

    Raises:
        ValueError: if there is no such average.
    """
    names = list(_weights_by_name(checkpoint))
    name = names[0] if ema is True else "raw" if ema is False else ema if isinstance(ema, str) else repr(float(ema))
    if name not in names:
        what = "raw weights" if name == "raw" else f"average {name!r}"
        others = [other for other in names if other != "raw"] or "raw weights"
        raise ValueError(f"the checkpoint has no {what}, only {others}")
    if ema is True and name == "raw" and checkpoint["state_dict"]:  # an export of raw weights is what it should be
        rank_zero_warn("the checkpoint holds no averages of the weights: taking the raw ones")
    return name


def _weights_by_name(checkpoint: dict[str, Any]) -> dict[str, Weights]:
    """Every state dict of the denoiser in a checkpoint: the averages in their order, then "raw" if it is there."""
    checkpoint = in_our_shape(checkpoint)
    raw = below("denoiser.", checkpoint["state_dict"])
    averages: dict[str, Weights] = checkpoint.get("callbacks", {}).get("EMA", {}).get("averages", {})
    whole = "published" in checkpoint  # ours hold what trains, no buffers
    named = {name: average if whole else raw | average for name, average in averages.items()}
    return named | {"raw": raw} if raw or not named else named


def check_resumable(model: PixelGen, path: Path) -> None:
    """Refuse to resume a checkpoint with another network; one in shards is looked at by FSDP2 alone.

    Raises:
        ValueError: naming the first parameters that are missing, unexpected, or of another shape.
    """
    if not is_sharded(path):
        refuse_other_network(model.denoiser, below("denoiser.", read_checkpoint(path)["state_dict"]), path)


def start_from(model: PixelGen, source: str | Path) -> None:
    """Fill a new model from whatever `load` takes: the first average of the denoiser, and the objective's own weights.

    Other classes and image sizes are met as `transferred` says, with a warning; else the whole denoiser must fit.
    REPA's projector, or the adaptive weight, starts anew with a warning if it does not fit or is not there.

    Raises:
        ValueError: naming the first parameters that are missing, unexpected, or of another shape.
    """
    path = find_weights(source)
    checkpoint = read_checkpoint(path)
    weights, changes = transferred(denoiser_weights(checkpoint, True), model.denoiser)
    fill_denoiser(model.denoiser, weights, path)
    for change in changes:
        rank_zero_warn(f"starting from {path}: {change}")
    own = model.objective.state_dict()
    theirs = below("objective.", checkpoint["state_dict"])
    for slot in dict.fromkeys(key.partition(".")[0] for key in own):
        mine, found = (
            {key: value.shape for key, value in state.items() if key.partition(".")[0] == slot}
            for state in (own, theirs)
        )
        if mine == found:
            own |= {key: theirs[key] for key in found}
        else:
            rank_zero_warn(f"{path} does not hold the objective's own weights ({next(iter(mine))}, …): they start anew")
    model.objective.load_state_dict(own)


def load(source: str | Path, ema: Average = True, device: str | torch.device | None = None) -> PixelGen:
    """A trained model, ready to `.sample(...)`: rebuilt from a run's config, without its losses.

    A published checkpoint needs no config: its weights tell the size of the network. The text encoder of a network that
    takes prompts is loaded from where the config says; of a published one, from the hub's cache or the hub.

    Args:
        source: run folder, a checkpoint in one, an export, or a published checkpoint of PixelGen or JiT.
        ema: True for the first average of the weights (raw if there is none), False for raw weights, or the decay or
            name of an average. An export holds one: True is always that. PixelGen publishes `ema`, JiT `ema1`, `ema2`.
        device: where to put the model; None for a GPU if there is one, else the CPU.

    Raises:
        ValueError: if there is no readable checkpoint or export, or its weights do not fit its config.
    """
    path = find_weights(source)
    checkpoint = read_checkpoint(path)
    weights = denoiser_weights(checkpoint, ema)
    if "published" in checkpoint:
        model = model_of(weights, checkpoint["published"], path)
    else:
        model = model_of_run(run_folder(path))
        fill_denoiser(model.denoiser, weights, path)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def model_of_run(folder: Path, text: bool = True) -> PixelGen:
    """The model that a run's config describes, with new weights, without losses and compilation.

    Args:
        folder: of the run or export.
        text: load its text encoder too, if it has one.

    Raises:
        ValueError: if the config does not describe a model.
    """
    path = folder / "config.yaml"
    with path.open() as file:
        config: dict[str, Any] = yaml.safe_load(file)["model"]
    arguments = config.get("init_args", config)
    arguments |= {"objective": None, "compile_blocks": False}  # sampling needs neither
    arguments |= {} if text else {"text_encoder": None}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=PixelGen)
    try:
        model: PixelGen = parser.instantiate(parser.parse_object({"model": config})).model
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{path} does not describe a model of this version: {one_sentence(error)}") from error
    return model


def export(source: str | Path, to: str | Path | None = None, ema: Average = True) -> Path:
    """Write one average of a run, float32, as `model.safetensors`, and the run's `config.yaml` beside it.

    `load` and `--init_from` take the folder as they take a run. Optimizer, other averages and losses stay behind.

    Args:
        source: run folder, or a checkpoint in one.
        to: folder to write into; `export` in the run folder if None.
        ema: True for the first average of the weights (raw if there is none), False or `raw` for raw weights, or the
            decay or name of an average.

    Returns:
        The file of weights.

    Raises:
        ValueError: if the run cannot be loaded, or the folder holds an export or config already or cannot be written.
    """
    path = find_weights(source)
    checkpoint = read_checkpoint(path)
    if "published" in checkpoint:
        raise ValueError(f"{path} is a published checkpoint, not one of a run: python -m pixelgen.convert takes it")
    config = run_folder(path) / "config.yaml"
    folder = config.with_name("export") if to is None else Path(to)
    refuse_used(folder)
    name = average_name(checkpoint, ema)
    denoiser = model_of_run(config.parent, text=False).denoiser
    fill_denoiser(denoiser, denoiser_weights(checkpoint, name), path)
    step = checkpoint.get("global_step")
    return write_export(folder, denoiser.state_dict(), name, step, lambda target: shutil.copyfile(config, target))


def refuse_used(folder: Path) -> None:
    """Refuse to write an export into a folder that holds one, or a config.

    Raises:
        ValueError: naming what is there.
    """
    if taken := [name for name in (EXPORT, "config.yaml") if (folder / name).exists()]:
        raise ValueError(f"{folder} holds {' and '.join(taken)} already: give another folder as --to")


def write_export(
    folder: Path, weights: Weights, average: str, step: int | None, write_config: Callable[[Path], object]
) -> Path:
    """Write weights as an export, and the config that `write_config` puts at the path it is given; both or nothing.

    Returns:
        The file of weights.

    Raises:
        ValueError: if the folder cannot be written.
    """
    about = {"format": EXPORT_FORMAT, "average": average, "step": str(step)}
    # copies, since the format allows neither tied nor strided ones
    copies = {key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
    unfinished, config = folder / f".{EXPORT}.unfinished", folder / "config.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(copies, unfinished, about)
        write_config(config)
        shutil.copymode(config, unfinished)  # safetensors lets nobody but the owner read its files
        return unfinished.rename(folder / EXPORT)
    except (OSError, SafetensorError) as error:
        for part in (unfinished, config):
            if part.exists():
                part.unlink()
        raise ValueError(f"could not write into {folder} ({error}): free some space or give another --to") from error
