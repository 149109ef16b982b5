"""Data sets shown to evaluations, and the statistics of real images that generated ones are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pixelgen.data.images import Item
from pixelgen.data.sets import ARRAY, ImageArray, arrays
from pixelgen.distributed.processes import gather
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.extract import ONLY_FRECHET, Evaluation, Metrics
from pixelgen.evaluation.statistics import Statistics

NAMED = 5  # files that a message about many of them names


def reference_statistics(
    dataset: Dataset[Item],
    extractor: FeatureExtractor,
    samples: int | None = None,
    *,
    metrics: Metrics = ONLY_FRECHET,
    batch_size: int = 64,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Statistics:
    """Statistics of the features of a map-style data set, shared among ranks.

    Args:
        dataset: items are dicts with a uint8 `image` (3, H, W).
        extractor: the feature extractor, on the device to use.
        samples: how many images, evenly spaced over the data set; all if None.
        metrics: what they will be needed for beside the Fréchet distance.
        batch_size: images at a time.
        num_workers: loading processes.
        rank: this process.
        world_size: number of processes.
    """
    chosen = spread(dataset, samples)
    evaluation = Evaluation(extractor, len(chosen), metrics.of_reference())
    show(dataset, [evaluation], chosen, batch_size, num_workers, rank, world_size)
    return evaluation.statistics()


def spread(dataset: Dataset[Item], samples: int | None) -> list[int]:
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


def show(
    dataset: Dataset[Item],
    evaluations: Sequence[Evaluation],
    chosen: Sequence[int],
    batch_size: int = 64,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    skip_corrupt: bool | None = None,
    advance: Callable[[], None] | None = None,
) -> int:
    """Show the chosen items of a data set to evaluations, each process its share: item number i is `chosen[i]`.

    Args:
        dataset: items are dicts with a uint8 `image` (3, H, W), or with a `problem` (see `data.sets`).
        evaluations: all see the same batches.
        chosen: indices into the data set.
        batch_size: images at a time.
        num_workers: loading processes.
        rank: this process.
        world_size: number of processes.
        skip_corrupt: leave out unreadable images; None if there is no such choice.
        advance: called after each batch.

    Returns:
        The number of unreadable images that were left out, of all processes.

    Raises:
        ValueError: on every process, if there are problems; it counts and names them.
    """
    numbers = range(rank, len(chosen), world_size)
    loader: DataLoader[Any] = DataLoader(
        _Numbered(dataset, chosen, numbers), batch_size=batch_size, num_workers=num_workers, collate_fn=_collate
    )
    corrupt: list[Item] = []
    wrong: list[Item] = []
    for images, seen, problems in loader:
        corrupt += [item for item in problems if item["corrupt"]]
        wrong += [item for item in problems if not item["corrupt"]]
        if images is not None and not wrong and (skip_corrupt or not corrupt):  # else the rest is only looked through
            for evaluation in evaluations:
                evaluation.update(images.to(evaluation.device), seen)
        if advance is not None:
            advance()
    corrupt, wrong = gather(corrupt), gather(wrong)
    _refuse(wrong, corrupt, len(chosen), skip_corrupt)
    return len(corrupt)


def read_reference(
    path: Path, extractor: FeatureExtractor, metrics: Metrics, batch_size: int = 64, rank: int = 0, world_size: int = 1
) -> Statistics:
    """Statistics from an npz, with features of the images in it where metrics need them and the file has none.

    Raises:
        ValueError: as `Statistics.load`.
    """
    statistics = Statistics.load(path, extractor)
    wanted = metrics.precision_recall is not False or metrics.kid is not False
    if not wanted or statistics.features is not None or ARRAY not in arrays(path):
        return statistics
    only = replace(metrics, sfid=False, kid=False, precision_recall=True)
    measured = reference_statistics(
        ImageArray(path), extractor, metrics=only, batch_size=batch_size, rank=rank, world_size=world_size
    )
    return replace(statistics, features=measured.features)


class _Numbered(Dataset[Item]):
    """The items of one process, with their numbers among all that were chosen."""

    def __init__(self, dataset: Dataset[Item], chosen: Sequence[int], numbers: range) -> None:
        self.dataset, self.chosen, self.numbers = dataset, chosen, numbers

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


def _refuse(wrong: list[Item], corrupt: list[Item], count: int, skip_corrupt: bool | None) -> None:
    if wrong:
        first = min(wrong, key=lambda item: item["number"])
        others = f" ({len(wrong)} such images)" if len(wrong) > 1 else ""
        raise ValueError(first["problem"] + others)
    if len(corrupt) == count or (corrupt and not skip_corrupt):
        paths = [item["path"] for item in sorted(corrupt, key=lambda item: item["number"])]
        named = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
        choice = "" if skip_corrupt is None else ", or leave them out with --skip_corrupt true"
        raise ValueError(f"{len(paths)} of {count} images cannot be read ({named}): repair or delete them{choice}")
