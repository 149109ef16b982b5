"""`python -m pixelgen.sample runs/demo`: images of a trained model, in a folder."""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning import Fabric
from lightning.fabric.utilities import rank_zero_only
from rich.console import Console

from pixelgen.cli.training import stop_on_bad_input
from pixelgen.config import one_sentence
from pixelgen.distributed.launch import Precision, launch
from pixelgen.flow import Heun, Sampler
from pixelgen.module import PixelGen
from pixelgen.runs.averages import load_average
from pixelgen.runs.sources import Source, fingerprint
from pixelgen.samples.generate import Request, file_name, generate
from pixelgen.samples.grid import grid
from pixelgen.samples.npz import read_image, write_npz
from pixelgen.samples.sampling import Average

SHOWN, COLUMNS = 64, 8  # images in grid.png, and in a row of it
IN_TURN = "each class in turn"
LONGEST = 20  # conditions that stand in the settings themselves


@dataclass(frozen=True)
class Wanted:
    """Which images; arguments are those of `sample`."""

    num_images: int | None = None
    classes: Sequence[str | int] | None = None
    prompts: Sequence[str] | None = None
    negative: str = ""
    seed: int = 0
    size: tuple[int, int] | None = None


def sample(
    source: str | Path,
    to: str | Path | None = None,
    num_images: int | None = None,
    classes: Sequence[str | int] | None = None,
    prompts: Sequence[str] | None = None,
    negative: str = "",
    seed: int = 0,
    sampler: Sampler | None = None,
    ema: Average = True,
    size: tuple[int, int] | None = None,
    precision: Precision = "bf16-mixed",
    batch_size: int = 64,
    devices: int = 1,
    num_nodes: int = 1,
    compile: bool = False,
    npz: bool = False,
) -> Path:
    """Make images with a trained model: PNGs, `settings.json`, and `grid.png` of the first ones.

    Image i is made from seed + i and the condition i mod their number; its bytes do not depend on batch size, number
    of processes and interruptions. The same command goes on where it was stopped; with a larger num_images it adds to
    the set. The settings stand in each PNG too.

    Args:
        source: run folder, checkpoint, export, or a published checkpoint.
        to: folder to write into; `samples/<average, step, sampler and a hash of all settings>` in the run if not given.
        num_images: how many; one of each class or prompt that is named, or 64, if not given.
        classes: numbers, ranges such as `10-19`, or names, where the data of the run tells them; all if not given.
        prompts: for a text model: one or more, or a text file with one a line.
        negative: prompt that guidance leads away from.
        seed: of the first image.
        sampler: another than the model's own; its settings without a class change those of the model's own.
        ema: true for the first average of the weights, `raw`, or the decay or name of an average; `width0.07` is made
            of the averages by width that a run's checkpoints hold.
        size: height and width in pixels; the training size if not given.
        precision: of matrix products.
        batch_size: images between two looks at the clock and the disk.
        devices: processes on this machine, one for each GPU, or on the CPU.
        num_nodes: machines.
        compile: compile the blocks of the network first, which takes a minute.
        npz: also write `samples.npz` for the ADM evaluation suite (arr_0, uint8, N × H × W × 3).

    Returns:
        The folder.

    Raises:
        ValueError: naming what is wrong with the arguments, the source or the folder.
    """
    fabric = launch(devices, precision, num_nodes)
    where = Source(source)
    model = load_average(where, ema, fabric.device)
    if compile:
        model.denoiser.compile_blocks(dynamic=False)
    how = {**where.identity(ema), "precision": precision, "compiled": compile}
    wanted = Wanted(num_images, classes, prompts, negative, seed, size)
    return make(wanted, model, where, how, fabric, None if to is None else Path(to), sampler, batch_size, npz)


def make(
    wanted: Wanted,
    model: PixelGen,
    source: Source,
    how: Mapping[str, Any],
    fabric: Fabric,
    to: Path | None = None,
    sampler: Sampler | None = None,
    batch_size: int = 64,
    npz: bool = False,
) -> Path:
    """What `sample` does once the processes run and the model is loaded.

    Args:
        wanted: which images.
        model: on the device of `fabric`.
        source: where it came from.
        how: what the images depend on beside all the other arguments, for `settings.json`: average, step, precision.
        fabric: launched.
        to: folder to write into.
        sampler: another than the model's own.
        batch_size: images between two looks at the clock and the disk.
        npz: also write `samples.npz`.

    Returns:
        The folder.

    Raises:
        ValueError: naming what is wrong with the wish or the folder.
    """
    conditions, named = _conditions(wanted, model, source)
    number = wanted.num_images
    if number is None:
        number = 64 if named in (None, IN_TURN) else len(conditions)
    if number < 1 or wanted.seed < 0:
        raise ValueError(f"num_images is {number} and seed {wanted.seed}: give at least 1 image, and a seed from 0")
    patch = model.denoiser.patch_size
    if wanted.size is not None and any(side < 1 or side % patch for side in wanted.size):
        raise ValueError(
            f"size {wanted.size[0]} {wanted.size[1]} does not divide into patches: use multiples of {patch}"
        )
    model.conditioner.check_negative(sampler or model.sampler, wanted.negative)
    settings = {
        **how,
        "weights": fingerprint(model.denoiser),
        "sampler": (sampler or model.sampler).settings(),
        "noise_scale": model.noise_scale,
        "size": wanted.size or (model.denoiser.image_size, model.denoiser.image_size),
        "seed": wanted.seed,
        "conditions": named,
        "negative": wanted.negative,
        **model.conditioner.settings,
    }
    folder = to or source.home / "samples" / folder_name(settings)
    requests = [Request(file_name(i), wanted.seed + i, conditions[i % len(conditions)]) for i in range(number)]
    options: dict[str, Any] = {"sampler": sampler, "size": wanted.size, "negative": wanted.negative}
    generate(model, requests, folder, settings, fabric, batch_size=batch_size, **options)
    if fabric.global_rank == 0:
        _finish(folder, requests, npz)
    fabric.barrier()
    return folder


def folder_name(settings: Mapping[str, Any]) -> str:
    """Average, step and sampler by name, everything else by six digits of a hash."""
    sampler = settings["sampler"]
    parts = [str(settings["average"]), f"step{settings['step']}", f"{sampler['class']}{sampler['num_steps']}"]
    if sampler["guidance"] != 1:
        parts.append(f"guidance{sampler['guidance']:g}")
        if (sampler["guidance_min"], sampler["guidance_max"]) != (0, 1):
            parts.append(f"{sampler['guidance_min']:g}to{sampler['guidance_max']:g}")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return "-".join([*parts, digest[:6]])


def _conditions(wanted: Wanted, model: PixelGen, source: Source) -> tuple[list[Any], Any]:
    """The conditions that the images take in turn, and how `settings.json` names them."""
    if wanted.negative:
        model.conditioner.check_negative(Heun(guidance=2.0), wanted.negative)
    found = model.conditioner.from_words(wanted.classes, wanted.prompts, source.class_names)
    if not (wanted.classes or wanted.prompts):
        return found, None if found == [None] else IN_TURN
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    return found, found if len(found) <= LONGEST else {"number": len(found), "sha256": digest}


def _finish(folder: Path, requests: Sequence[Request], npz: bool) -> None:
    """Write what is made of the whole set."""
    shown = requests[:SHOWN]
    images = [read_image(folder / request.path) for request in shown]
    captions = [request.condition for request in shown if isinstance(request.condition, str)]
    unfinished = folder / ".grid.png"
    try:
        grid(torch.stack(images), COLUMNS, captions or None).save(unfinished)
        unfinished.replace(folder / "grid.png")
    except OSError as error:
        raise ValueError(f"could not write {folder / 'grid.png'} ({error}): free some space") from error
    if npz:
        write_npz([folder / request.path for request in requests], folder / "samples.npz")


# --- command line


def main(args: Sequence[str] | None = None) -> Path:
    """Sample as the options say; see `python -m pixelgen.sample --help`."""
    arguments = list(sys.argv[1:] if args is None else args)
    parser = ArgumentParser(prog="python -m pixelgen.sample", allow_abbrev=False, exit_on_error=False)
    parser.add_function_arguments(sample, as_positional=True, skip={*FLAGS})
    add_flags(parser, FLAGS)
    with stop_on_bad_input():
        folder = sample(**parse(parser, arguments))
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        number = len([*folder.glob("[0-9]*.png")])
        Console().print(f"{folder}: {number} images, grid.png, settings.json", soft_wrap=True)
    return folder


# arguments that read better on a command line than the parser would have them
FLAGS: dict[str, dict[str, Any]] = {
    "classes": {"nargs": "+", "help": "numbers, ranges such as 10-19, or names; all if not given"},
    "prompts": {"nargs": "+", "help": "for a text model: one or more, or a text file with one a line"},
    "size": {"nargs": 2, "type": int, "metavar": ("HEIGHT", "WIDTH"), "help": "the training size if not given"},
    "compile": {"action": "store_true", "help": "compile the blocks of the network first, which takes a minute"},
    "npz": {"action": "store_true", "help": "also write samples.npz for the ADM evaluation suite"},
}


def add_flags(parser: ArgumentParser, flags: Mapping[str, Mapping[str, Any]]) -> None:
    """Add arguments by hand."""
    for name, options in flags.items():
        parser.add_argument(f"--{name}", **options)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Arguments of a command on a `source`: flags below `--sampler.` alone change the sampler that it comes with.

    Raises:
        ValueError: in one sentence.
    """
    try:
        given, others = split_sampler(arguments)
        if given and "--sampler" not in [flag.partition("=")[0] for flag in given]:
            own = Source(parser.parse_args(others).source).sampler
            given = [f"--sampler={json.dumps(own)}", *given]
        options = vars(parser.instantiate(parser.parse_args([*others, *given])))
    except (ArgumentError, ValueError) as error:
        if "arguments are required: source" in str(error):
            raise ValueError("say what to sample from: a run folder, a checkpoint or an export") from error
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(one_sentence(error, flags)) from error
    if options.get("size") is not None:
        options["size"] = tuple(options["size"])
    return options


def split_sampler(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of the sampler with their values, and all other arguments."""
    sampler: list[str] = []
    others: list[str] = []
    waits = False  # whether a flag of the sampler waits for its value
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        if waits or flag == "--sampler" or flag.startswith("--sampler."):
            sampler.append(argument)
            waits = not waits and not equals
        else:
            others.append(argument)
    return sampler, others


if __name__ == "__main__":
    main()
