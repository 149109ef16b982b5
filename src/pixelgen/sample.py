"""`python -m pixelgen.sample runs/demo`: images of a trained model, in a folder."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Fabric

from pixelgen.checks import COUNT, checked
from pixelgen.cli.command import command
from pixelgen.conditioner import Text
from pixelgen.distributed.processes import launch
from pixelgen.files import atomic
from pixelgen.module import PixelGen
from pixelgen.runs.run import Run
from pixelgen.samples.generate import RANDOM, Request, drawn, file_name, generate
from pixelgen.samples.grid import grid
from pixelgen.samples.npz import read_png, write_npz
from pixelgen.samples.sampling import Sampling
from pixelgen.samples.settings import folder_name, is_guided, settings_of
from pixelgen.text import say

SHOWN, COLUMNS = 64, 8  # images in grid.png, and in a row of it
LONGEST = 20  # conditions that stand in the settings themselves


@checked(num_images=COUNT)
def sample(
    source: str | Path | Run,
    to: str | Path | None = None,
    *,
    num_images: int | None = None,
    classes: Sequence[str | int] | None = None,
    prompts: Sequence[str] | None = None,
    npz: bool = False,
    sampling: Sampling = Sampling(),
) -> Path:
    """Generate images with a trained model: PNGs, `settings.json`, and `grid.png` of the first ones.

    Image i is generated from seed + i and the condition i mod their number, or a random one with `random_classes`; its
    bytes do not depend on batch size, number of processes and interruptions. The same command resumes where it was
    stopped; with a larger num_images it adds to the set. A set of up to 16 images goes through the network in a smaller
    batch, which is one of its settings: it stands in a folder of its own. The settings stand in each PNG too.

    Args:
        source: run folder, checkpoint, export, or a published checkpoint.
        to: folder to write into; `samples/<EMA, step, sampler and a hash of all settings>` in the run if not given.
        num_images: how many; one of each class or prompt that is named, or 64, if not given.
        classes: names, numbers, or ranges such as 10-19; all if not given. What is a name and the number of another
            class is refused; `number:10` is a number alone.
        prompts: for a text model: one or more, or a text file with one a line.
        npz: also write samples.npz for the ADM evaluation suite (arr_0, uint8, N × H × W × 3).
        sampling: how images are generated.

    Returns:
        The folder.
    """
    run, fabric = Run.open(source), launch(sampling.devices, sampling.precision, sampling.num_nodes)
    model = open_model(run, fabric, sampling)
    folder = None if to is None else Path(to).expanduser()
    return sample_with(model, run, fabric, folder, num_images, classes, prompts, npz, sampling)


def open_model(run: Run, fabric: Fabric, sampling: Sampling) -> PixelGen:
    """The model of a run with the EMA of `sampling`, on the device of this process, compiled if asked for."""
    model = run.model(sampling.ema, fabric.device)
    if sampling.compile:
        model.denoiser.compile_blocks(dynamic=False)
    return model


def sample_with(
    model: PixelGen,
    run: Run,
    fabric: Fabric,
    to: Path | None = None,
    num_images: int | None = None,
    classes: Sequence[str | int] | None = None,
    prompts: Sequence[str] | None = None,
    npz: bool = False,
    sampling: Sampling = Sampling(),
) -> Path:
    """What `sample` does once the processes run and the model, with the EMA of `sampling`, is on its device."""
    conditions = model.conditioner.from_words(classes, prompts)
    chosen = bool(classes or prompts)
    number = num_images or (len(conditions) if chosen else 64)
    named = _named(conditions, chosen, model.conditioner.description)
    if sampling.random_classes:
        named, conditions = {"random": named} if chosen else RANDOM, drawn(conditions, sampling.seed, number)
    asked = {"seed": sampling.seed, "conditions": named}
    settings = settings_of(model, sampling, run.identity(sampling.ema), asked, number)
    folder = to or run.folder / "samples" / folder_name(settings, is_guided(model, sampling))
    requests = [Request(file_name(i), sampling.seed + i, conditions[i % len(conditions)]) for i in range(number)]
    generate(model, requests, folder, settings, fabric, sampling)
    if fabric.global_rank == 0:
        _finish(folder, requests, npz)
    fabric.barrier()
    return folder


def sample_prompts(
    run: Run,
    fabric: Fabric,
    prompts: Sequence[str],
    path: Callable[[int, int], str],
    number: int,
    sha256: str,
    to: str | Path | None,
    benchmark: str,
    sampling: Sampling,
) -> Path:
    """Generate the images of a benchmark with a text model: every prompt gets the same seeds, from that of `sampling`.

    Args:
        run: of the model.
        fabric: launched.
        prompts: one or more.
        path: of an image in the folder, from the number of its prompt and its seed.
        number: of images of each prompt.
        sha256: of the prompts.
        to: folder to write into; one below `benchmark` in the run, named by all settings, if None.
        benchmark: its name.
        sampling: how images are generated.

    Returns:
        The folder.
    """
    model = open_model(run, fabric, sampling)
    if not isinstance(model.conditioner, Text):
        raise ValueError(f"the model of {run} takes no prompts: give a text model")
    seeds = range(sampling.seed, sampling.seed + number)
    about = {"seeds": list(seeds), "prompts": len(prompts), "prompts_sha256": sha256}
    settings = settings_of(model, sampling, run.identity(sampling.ema), about, len(prompts) * number)
    name = folder_name(settings, is_guided(model, sampling))
    folder = run.folder / benchmark / name if to is None else Path(to).expanduser()
    requests = [Request(path(i, seed), seed, text) for i, text in enumerate(prompts) for seed in seeds]
    generate(model, requests, folder, settings, fabric, sampling)
    return folder


def _named(conditions: list[Any], chosen: bool, description: str) -> Any:
    """How `settings.json` names the conditions that the images take in turn."""
    if not chosen:
        return None if conditions == [None] else description
    digest = hashlib.sha256(json.dumps(conditions, default=str).encode()).hexdigest()[:16]
    return conditions if len(conditions) <= LONGEST else {"number": len(conditions), "sha256": digest}


def _finish(folder: Path, requests: Sequence[Request], npz: bool) -> None:
    """Write what is made of the whole set."""
    shown = requests[:SHOWN]
    images = torch.stack([read_png(folder / request.path) for request in shown])
    captions = [request.condition for request in shown if isinstance(request.condition, str)]
    with atomic(folder / "grid.png") as temporary:
        grid(images, COLUMNS, captions or None).save(temporary, "PNG")
    if npz:
        write_npz([folder / request.path for request in requests], folder / "samples.npz")


def _report(folder: Path) -> None:
    number = len([*folder.glob("[0-9]*.png")])
    say(f"{folder}: {number} images, grid.png, settings.json")


main = command(sample, _report)

if __name__ == "__main__":
    main()
