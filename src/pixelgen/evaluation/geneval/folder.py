"""GenEval's folder of images: `<prompt>/metadata.jsonl` and `<prompt>/samples/<seed>.png`, both numbered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pixelgen.evaluation.geneval.detectors import Detector
from pixelgen.evaluation.geneval.prompts import Prompt


@dataclass(frozen=True)
class Sample:
    """One image of a folder: its path in it, and what it was made from."""

    path: str
    prompt: Prompt


def sample_path(number: int, seed: int) -> str:
    """Where the image of a seed lies, relative to the folder, from the number of its prompt."""
    return f"{number:05d}/samples/{seed:04d}.png"


def lay_out(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Write the metadata of every prompt.

    Raises:
        ValueError: if there is other metadata, or the folder cannot be written.
    """
    for number, prompt in enumerate(prompts):
        path = folder / f"{number:05d}" / "metadata.jsonl"
        text = json.dumps(prompt.metadata()) + "\n"
        try:
            if path.exists() and Prompt.parse(json.loads(path.read_text())) != prompt:
                raise ValueError(f"{path} is that of another prompt than {prompt.text!r}: give another folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise ValueError(f"could not write {path} ({error}): free some space or give another folder") from error


def find_samples(folder: Path) -> list[Sample]:
    """The images of a folder in order, whoever made them; `grid.png` and the like are passed over.

    Raises:
        ValueError: if there are none, or metadata is missing or wrong.
    """
    samples = []
    for numbered in sorted(folder.iterdir() if folder.is_dir() else []):
        if numbered.name.isdecimal() and numbered.is_dir():
            prompt = _prompt(numbered / "metadata.jsonl")
            images = [path for path in (numbered / "samples").glob("*.png") if re.fullmatch(r"\d+", path.stem)]
            samples += [Sample(str(path.relative_to(folder)), prompt) for path in sorted(images)]
    if not samples:
        raise ValueError(f"{folder} holds no images in GenEval's layout: 00000/metadata.jsonl, 00000/samples/0000.png")
    return samples


def _prompt(path: Path) -> Prompt:
    try:
        return Prompt.parse(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): every prompt's folder needs its metadata") from error


def judge_samples(
    detector: Detector,
    folder: Path,
    samples: Sequence[Sample],
    device: torch.device | str = "cpu",
    batch_size: int = 16,
) -> Iterator[list[dict[str, Any]]]:
    """Verdicts on images, a batch at a time, with the keys of the original's `results.jsonl`.

    Images that follow each other and have the same size are judged together.
    """
    waiting: list[tuple[Sample, Tensor]] = []
    for sample in samples:
        image = _read(folder / sample.path)
        if waiting and (len(waiting) == batch_size or waiting[0][1].shape != image.shape):
            yield _judge(detector, waiting, device)
            waiting = []
        waiting.append((sample, image))
    if waiting:
        yield _judge(detector, waiting, device)


def _judge(detector: Detector, batch: list[tuple[Sample, Tensor]], device: torch.device | str) -> list[dict[str, Any]]:
    images = torch.stack([image for _, image in batch]).to(device)
    verdicts = detector.judge(images, [sample.prompt for sample, _ in batch])
    return [
        {
            "filename": sample.path,
            "tag": sample.prompt.task,
            "prompt": sample.prompt.text,
            "correct": verdict.correct,
            "reason": "\n".join(verdict.reasons),
            "metadata": json.dumps(sample.prompt.metadata()),
        }
        for (sample, _), verdict in zip(batch, verdicts, strict=True)
    ]


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} is no image ({error}): delete it and make it again") from error
