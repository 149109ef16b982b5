"""Sets of images of given prompts, each with the same seeds: what benchmarks of text models ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Fabric

from pixelgen.conditioner import Text
from pixelgen.distributed.processes import Precision
from pixelgen.flow import Sampler
from pixelgen.runs.run import Run
from pixelgen.samples.generate import Request, generate
from pixelgen.samples.sampling import Average, Sampling
from pixelgen.samples.settings import folder_name, settings_of

FLAGS: dict[str, dict[str, Any]] = {
    "size": {"nargs": 2, "type": int, "metavar": ("HEIGHT", "WIDTH"), "help": "the training size if not given"},
}
"""Arguments that read better on a command line than the parser would have them."""


@dataclass(frozen=True)
class Manner:
    """How images are made; arguments as those of `pixelgen.sample.sample`."""

    negative: str = ""
    sampler: Sampler | None = None
    ema: Average = True
    size: tuple[int, int] | None = None
    precision: Precision = "bf16-mixed"
    batch_size: int = 64


def make_prompted(
    source: str | Path,
    prompts: Sequence[str],
    seeds: Sequence[int],
    path: Callable[[int, int], str],
    about: Mapping[str, Any],
    manner: Manner,
    fabric: Fabric,
    place: Callable[[Path, str], Path],
) -> Path:
    """Make an image of each prompt and seed; call it in every process.

    Args:
        source: of a text model, as `pixelgen.load` takes it.
        prompts: all of them.
        seeds: the same for every prompt.
        path: of an image in the folder, from the number of its prompt and its seed.
        about: what `settings.json` says of the prompts.
        manner: how.
        fabric: launched.
        place: the folder, from that of the source and a name made of the settings.

    Returns:
        The folder.

    Raises:
        ValueError: if the model knows no text, or as `generate`.
    """
    run = Run(source)
    model = run.model(manner.ema, fabric.device)
    if not isinstance(model.conditioner, Text):
        raise ValueError(
            f"the model of {source} knows no text, and the images are made from prompts: give a text model"
        )
    sampling = Sampling(**vars(manner))
    asked = {"seeds": list(seeds), **about}
    settings = settings_of(model, sampling, run.identity(manner.ema), asked)
    folder = place(run.folder, folder_name(settings))
    requests = [Request(path(i, seed), seed, prompt) for i, prompt in enumerate(prompts) for seed in seeds]
    generate(model, requests, folder, settings, fabric, sampling)
    return folder
