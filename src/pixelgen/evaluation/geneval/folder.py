"""GenEval's folder of images: `<prompt>/metadata.jsonl` and `<prompt>/samples/<seed>.png`, both numbered."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelgen.evaluation.geneval.detectors import Detector
from pixelgen.evaluation.geneval.prompts import Prompt
from pixelgen.files import append_line, read_text, write_text

MOST_PROMPTS = 1_000_000  # that a set is believed to have
LOG = ".verdicts-{}.jsonl"
Record = dict[str, Any]  # a verdict on an image, as a line of the original's `results.jsonl`


@dataclass(frozen=True)
class GeneratedImage:
    """One image of a folder: its path in it, and the prompt that it was generated from."""

    path: str
    prompt: Prompt


def image_path(number: int, seed: int) -> str:
    """Path of the image of a seed, relative to the folder, from the number of its prompt."""
    return f"{number:05d}/samples/{seed:04d}.png"


def write_metadata(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Write the metadata of every prompt, where there is no other metadata, which a ValueError tells."""
    for number, prompt in enumerate(prompts):
        path = folder / f"{number:05d}" / "metadata.jsonl"
        if not path.exists():
            write_text(path, json.dumps(prompt.metadata()) + "\n")
        elif _read_metadata(path) != prompt:
            raise ValueError(f"{path} is that of another prompt than {prompt.text!r}: give another folder")


def find_images(folder: Path) -> list[GeneratedImage]:
    """The images of a folder in order, whoever generated them; `grid.png` and the like are left out.

    A ValueError tells that there are none, or that metadata is missing or wrong.
    """
    images = []
    for numbered in sorted(folder.iterdir() if folder.is_dir() else []):
        if numbered.name.isdecimal() and numbered.is_dir():
            prompt = _read_metadata(numbered / "metadata.jsonl")
            paths = [path for path in sorted((numbered / "samples").glob("*.png")) if path.stem.isdecimal()]
            images += [GeneratedImage(str(path.relative_to(folder)), prompt) for path in paths]
    if not images:
        raise ValueError(f"{folder} holds no images in GenEval's layout: 00000/metadata.jsonl, 00000/samples/0000.png")
    return images


def missing_images(folder: Path, images: Sequence[GeneratedImage], settings: Mapping[str, Any] | None) -> list[str]:
    """Paths of the images that a folder lacks: of every prompt up to the last one, each seed that any prompt has.

    Where most numbers of prompts have no folder, they were chosen, and none is missing. `settings` of a set that was
    generated here tell its prompts and seeds.
    """
    there = {(int(Path(image.path).parts[0]), int(Path(image.path).stem)) for image in images}
    found = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())
    numbers: Sequence[int] = range(found[-1] + 1) if found[-1] < 2 * len(found) else found
    seeds = {seed for _, seed in there}
    if settings is not None and "seeds" in settings:
        number, seeds = settings.get("prompts"), set(settings["seeds"])
        if not isinstance(number, int) or not 0 < number <= MOST_PROMPTS:
            raise ValueError(f"the settings.json in {folder} is damaged: its number of prompts is {number!r}")
        numbers = range(number)
    return [image_path(n, seed) for n in numbers for seed in sorted(seeds) if (n, seed) not in there]


def _read_metadata(path: Path) -> Prompt:
    try:
        return Prompt.parse(json.loads(read_text(path)))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): every prompt's folder needs its metadata") from error


def judge_images(
    detector: Detector,
    folder: Path,
    images: Sequence[GeneratedImage],
    device: torch.device | str = "cpu",
    batch_size: int = 16,
) -> Iterator[Record]:
    """Verdicts on images; those that follow each other and have the same size are judged together.

    A ValueError names an image that cannot be read.
    """
    read = ((image, _read_pixels(folder / image.path)) for image in images)
    for _, equal in groupby(read, lambda pair: pair[1].shape):
        while batch := list(islice(equal, batch_size)):
            pixels = torch.stack([pixels for _, pixels in batch]).to(device)
            verdicts = detector.judge(pixels, [image.prompt for image, _ in batch])
            for (image, _), verdict in zip(batch, verdicts, strict=True):
                yield {
                    "filename": image.path,
                    "tag": image.prompt.task,
                    "prompt": image.prompt.text,
                    "correct": verdict.correct,
                    "reason": "\n".join(verdict.reasons),
                    "metadata": json.dumps(image.prompt.metadata()),
                }


def _read_pixels(path: Path) -> Tensor:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image ({error}): delete it and make it again") from error


class VerdictLog:
    """The verdicts so far, so that scoring resumes: one hidden file for each process until all verdicts are there.

    A verdict holds for the image that was judged: one that has been written anew, has another prompt or is judged by
    another detector has none.
    """

    def __init__(self, folder: Path, detector: Detector, rank: int = 0) -> None:
        self.folder, self.path = folder, folder / LOG.format(rank)
        self._detector = [type(detector).__name__, detector.names, detector.colors, detector.protocol]

    def known(self, images: Sequence[GeneratedImage]) -> list[Record]:
        """Verdicts that earlier processes left."""
        known: dict[str, Record] = {}
        for path in sorted(self.folder.glob(LOG.format("*"))):
            for line in path.read_text(errors="replace").split("\n"):
                with suppress(ValueError):  # an empty line, or the last one of a process that was killed
                    entry = json.loads(line)
                    known[entry["key"]] = entry["record"]
        keys = (self._key(image.path, json.dumps(image.prompt.metadata())) for image in images if known)
        return [known[key] for key in keys if key in known]

    def add(self, record: Record) -> None:
        """Append a verdict; a ValueError tells that it cannot be written."""
        entry = {"key": self._key(record["filename"], record["metadata"]), "record": record}
        try:
            append_line(self.path, "\n" + json.dumps(entry))  # the last line may be half a one
        except OSError as error:
            raise ValueError(f"could not write down the verdicts in {self.path} ({error})") from error

    def clear(self) -> None:
        """Remove the files of all processes."""
        for path in self.folder.glob(LOG.format("*")):
            path.unlink(missing_ok=True)

    def _key(self, path: str, metadata: str) -> str:
        stat = (self.folder / path).stat()
        about = [*self._detector, path, stat.st_size, stat.st_mtime_ns, metadata]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
