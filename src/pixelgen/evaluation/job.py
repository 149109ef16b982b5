"""Images read from disk by the processes of a command or of training, for extractions and references."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Fabric
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pixelgen.data.images import Item
from pixelgen.distributed.processes import gather, progress
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.extract import Extraction
from pixelgen.evaluation.scores import ONLY_FRECHET, Metrics
from pixelgen.evaluation.statistics import Statistics

NAMED = 5  # files that a message about many of them names


@dataclass(frozen=True)
class EvaluationJob:
    """What is computed of images and of references, and how the processes read them.

    Args:
        metrics: what to compute beside the Fréchet distance.
        batch_size: images at a time.
        num_workers: processes that read images, for each device; no more than there are cores.
        skip_corrupt: leave out unreadable images, which are refused otherwise; None where users have no such choice.
        fabric: of a command, which shows its progress; None in training.
    """

    metrics: Metrics = ONLY_FRECHET
    batch_size: int = 64
    num_workers: int = 0
    skip_corrupt: bool | None = None
    fabric: Fabric | None = None

    def extract(
        self, dataset: Dataset[Item], extractions: Sequence[Extraction], chosen: Sequence[int], what: str = "images"
    ) -> int:
        """Give the chosen images of a data set to extractions, each process its share: image number i is `chosen[i]`.

        Args:
            dataset: items are dicts with a uint8 `image` (3, H, W).
            extractions: all get the same batches.
            chosen: indices into the data set.
            what: a word for the images beside the bar.

        Returns:
            The number of unreadable images that were left out, of all processes.

        Raises:
            ValueError: on every process, if there are problems; it counts and names them.
        """
        workers = min(self.num_workers, os.cpu_count() or 1)
        loader: DataLoader[Any] = DataLoader(
            _Numbered(dataset, chosen), self.batch_size, num_workers=workers, collate_fn=_collate
        )
        problems: list[Item] = []
        with self._progress(len(chosen), max(1, len(loader)), what) as advance:
            for images, numbers, bad in loader:
                problems += bad
                if images is not None and all(self.skip_corrupt and item["corrupt"] for item in problems):
                    for extraction in extractions:
                        extraction.update(images, numbers)
                advance()
        problems = sorted(gather(problems), key=lambda item: item["number"])
        _refuse(problems, len(chosen), self.skip_corrupt)
        return len(problems)

    def measure(self, images: Dataset[Item], extractor: FeatureExtractor, samples: int | None = None) -> Statistics:
        """Statistics of real images, or of so many of them that are evenly spaced; all processes must call this.

        Raises:
            ValueError: if the data set is a stream, or naming unreadable images.
        """
        chosen, needs = evenly_spaced(images, samples), self.metrics.of_reference(extractor)
        extraction = Extraction(extractor, len(chosen), needs, self.metrics.max_features, self.metrics.seed)
        self.extract(images, [extraction], chosen, "reference")
        return extraction.statistics()

    def _progress(self, images: int, batches: int, what: str) -> AbstractContextManager[Callable[[], None]]:
        return nullcontext(lambda: None) if self.fabric is None else progress(self.fabric, images, batches, what)


def evenly_spaced(dataset: Dataset[Item], samples: int | None) -> list[int]:
    """Indices of so many items, evenly spaced over a data set; of all of them if None or too many.

    Raises:
        ValueError: if the data set is a stream.
    """
    refuse_stream(dataset)
    length = len(dataset)  # type: ignore[arg-type]
    count = length if samples is None else min(samples, length)
    return [i * length // count for i in range(count)]


def refuse_stream(dataset: Dataset[Any]) -> None:
    """Refuse data that has no fixed set of images to compare with.

    Raises:
        ValueError: naming what to give instead.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            "streamed shards have no fixed set of images to compare with: give a reference (fid.reference in "
            "training), a folder of images or an npz file of statistics"
        )


class _Numbered(Dataset[Item]):
    """The items of one process, with their numbers among all that were chosen."""

    def __init__(self, dataset: Dataset[Item], chosen: Sequence[int]) -> None:
        ready = distributed.is_available() and distributed.is_initialized()
        rank, world_size = (distributed.get_rank(), distributed.get_world_size()) if ready else (0, 1)
        self.dataset, self.chosen, self.numbers = dataset, chosen, range(rank, len(chosen), world_size)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Item:
        number = self.numbers[index]
        try:
            item = self.dataset[self.chosen[number]]
        except ValueError as error:
            item = {"problem": str(error), "corrupt": True, "path": str(error)}
        return {**item, "number": number}


def _collate(items: list[Item]) -> tuple[Tensor | None, list[int], list[Item]]:
    """Images (B, 3, H, W), their numbers, and the items without an image."""
    good = [item for item in items if "problem" not in item]
    images = torch.stack([item["image"] for item in good]) if good else None
    return images, [item["number"] for item in good], [item for item in items if "problem" in item]


def _refuse(problems: Sequence[Item], count: int, skip_corrupt: bool | None) -> None:
    wrong = [item["problem"] for item in problems if not item["corrupt"]]
    if wrong:
        raise ValueError(wrong[0] + (f" ({len(wrong)} such images)" if len(wrong) > 1 else ""))
    if len(problems) == count or (problems and not skip_corrupt):
        paths = [item["path"] for item in problems]
        named = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
        choice = "" if skip_corrupt is None else ", or leave them out with --skip_corrupt true"
        raise ValueError(f"{len(paths)} of {count} images cannot be read ({named}): repair or delete them{choice}")
