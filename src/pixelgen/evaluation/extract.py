"""Images, from disk or as generated, to features, moments and scores: in one pass, on any number of processes."""

import os
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning import Fabric
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pixelgen.data.images import Item
from pixelgen.data.order import evenly_spaced
from pixelgen.distributed.processes import first, gather, is_first, progress
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.scores import ONLY_FRECHET, Metrics, needs
from pixelgen.evaluation.statistics import Moments, Statistics
from pixelgen.evaluation.tf32 import full_float32

NAMED = 5  # files that a message about many of them names


class Rows:
    """Vectors of numbered images, all or those that are `chosen`, on the CPU of the process that computed them."""

    def __init__(self, chosen: Collection[int] | None = None) -> None:
        self.chosen = None if chosen is None else frozenset(chosen)
        self.kept: list[tuple[list[int], Tensor]] = []

    def update(self, vectors: Tensor, numbers: Sequence[int]) -> None:
        """Keep vectors (B, D) of the images with these numbers."""
        places = [i for i, number in enumerate(numbers) if self.chosen is None or number in self.chosen]
        self.kept.append(([numbers[i] for i in places], vectors.detach()[places].float().cpu()))

    def gather(self) -> Tensor:
        """Vectors (K, D) of all processes, float32, by number, whatever order they came in."""
        kept = gather(self.kept)
        order = np.argsort([number for numbers, _ in kept for number in numbers])
        return torch.cat([vectors for _, vectors in kept])[torch.from_numpy(order)]


class Extraction:
    """Takes in images batch by batch, each process its share, and keeps what scores need of them.

    Moments are sums in float64; logits and features grow with the number of images (4 and 8 kB each with Inception).
    Of a reference, features are kept of at most `metrics.max_features` images, drawn by `metrics.seed`; without
    `metrics`, of all images. What is not needed is not computed; the extractor, on its device, runs once for each
    batch. There will be `number` images on all processes, each known by its number below this; `needs` are those of
    scores, beside the moments of features.
    """

    def __init__(
        self, extractor: FeatureExtractor, number: int, needs: Collection[str] = (), metrics: Metrics | None = None
    ) -> None:
        self.extractor, sizes = extractor, extractor.sizes
        self.pixels: list[tuple[int, int]] = []  # height and width of the images, once there are some
        self.device = next((weight.device for weight in extractor.network.parameters()), torch.device("cpu"))
        self.outputs = ["features", *(name for name in ("spatial", "logits") if name in needs)]
        self.moments = {name: Moments(sizes[name]).to(self.device) for name in self.outputs if name != "logits"}
        self.rows = {"logits": Rows()} if "logits" in needs else {}
        if "features" in needs:
            self.rows["features"] = Rows(None if metrics is None else metrics.drawn(number))

    def update(self, images: Tensor, numbers: Sequence[int]) -> None:
        """Add uint8 images (B, 3, H, W) with these numbers."""
        self.pixels = [(images.shape[-2], images.shape[-1])]
        with torch.no_grad(), full_float32():
            outputs = self.extractor.outputs(images.to(self.device), self.outputs)
        for name, moments in self.moments.items():
            moments.update(outputs[name])
        for name, rows in self.rows.items():
            rows.update(outputs[name], numbers)

    def statistics(self) -> Statistics:
        """Of the images of all processes, on the CPU; all of them must call this.

        A ValueError on all of them tells of features that are not finite.
        """
        known: dict[str, Any] = {name: rows.gather() for name, rows in self.rows.items()}
        known["mu"], known["sigma"], n = self.moments["features"].compute()
        if "spatial" in self.moments:
            known["mu_s"], known["sigma_s"], _ = self.moments["spatial"].compute()
        known = {name: value.cpu() for name, value in known.items()}
        name, sha256, pixels = self.extractor.name, self.extractor.weights_sha256, gather(self.pixels)
        if not all(value.isfinite().all() for value in known.values()):
            raise ValueError(f"{name} makes features that are not finite (NaN or infinite): check its weights")
        return Statistics(n=int(n), extractor=name, weights_sha256=sha256, pixels=pixels[0], **known)


class Comparison(Extraction):
    """Generated images, taken in batch by batch, each process its share, against the statistics of real ones.

    Args:
        extractor: on the device to use.
        reference: statistics of the real images.
        number: how many images there will be on all processes; each is known by its number below this.
        metrics: what to compute beside the Fréchet distance.

    Raises:
        ValueError: if a required score cannot be computed.
    """

    def __init__(
        self, extractor: FeatureExtractor, reference: Statistics, number: int, metrics: Metrics = ONLY_FRECHET
    ) -> None:
        self.entries, left_out = metrics.choose(extractor, number, reference)
        super().__init__(extractor, number, needs(self.entries))
        self.reference = reference
        self.protocol = {"settings": metrics.settings(self.entries), "left_out": left_out}

    def scores(self) -> dict[str, float]:
        """Every number by its name, the first process's on all of them, which must all call this.

        A ValueError on all of them tells that fewer images came than a score needs, since some could not be read.
        """
        generated = self.statistics()
        count = 0 if generated.features is None else len(generated.features)
        for score in self.entries:
            if reason := score.lacks(count, count, self.reference):
                raise ValueError(f"metrics.{score.name} cannot be computed, since {reason}: leave it out")
        found: dict[str, float] = {}
        if is_first():
            with full_float32():
                parts = [part.to(self.device) for part in (generated, self.reference)]
                for score in self.entries:
                    numbers = score.compute(*parts)
                    named = numbers if isinstance(numbers, dict) else {score.name: float(numbers)}
                    found |= {self.extractor.metric(name): value for name, value in named.items()}
        return first(found)  # a decomposition may round differently on different machines


@dataclass(frozen=True)
class EvaluationJob:
    """What is computed of images on disk and of references, and how the processes read them."""

    metrics: Metrics = ONLY_FRECHET
    batch_size: int = 64
    num_workers: int = 0  # processes that read images, for each device, as far as there are cores
    skip_corrupt: bool | None = None  # leave out unreadable images; None where users have no such choice
    fabric: Fabric | None = None  # of a command, which shows its progress
    upright: bool = True  # turn images as their EXIF orientation asks for

    def extract(
        self, dataset: Dataset[Item], extractions: Sequence[Extraction], chosen: Sequence[int], what: str = "images"
    ) -> int:
        """Give chosen images of a data set to all extractions, each process its share: image number i is `chosen[i]`.

        Returns the number of unreadable images that were left out, of all processes. Raises a ValueError on every
        process, if there are problems, which counts and names them; `what` stands beside the bar.
        """
        ready = distributed.is_available() and distributed.is_initialized()
        rank, world_size = (distributed.get_rank(), distributed.get_world_size()) if ready else (0, 1)
        share, workers = range(rank, len(chosen), world_size), min(self.num_workers, os.cpu_count() or 1)
        options: dict[str, Any] = {"batch_size": self.batch_size, "num_workers": workers, "collate_fn": _collate}
        loader: DataLoader[Any] = DataLoader(_Numbered(dataset, chosen), sampler=share, **options)
        bar = progress(self.fabric, len(chosen), max(1, len(loader)), what) if self.fabric else nullcontext(bool)
        problems: list[Item] = []
        with bar as advance:
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
        """Statistics of real images, or of so many of them that are evenly spaced; all processes must call this."""
        chosen = choose(images, samples)
        extraction = Extraction(extractor, len(chosen), self.metrics.of_reference(extractor), self.metrics)
        self.extract(images, [extraction], chosen, "reference")
        length = len(images)  # type: ignore[arg-type]
        return replace(extraction.statistics(), total=length if len(chosen) < length else None)


def choose(dataset: Dataset[Item], samples: int | None) -> list[int]:
    """Indices of so many items, evenly spaced over a data set that is no stream; of all if None or too many."""
    refuse_stream(dataset)
    length = len(dataset)  # type: ignore[arg-type]
    return evenly_spaced(length, length if samples is None else samples)


def refuse_stream(dataset: Dataset[Any]) -> None:
    """Raise a ValueError about data that has no fixed set of images to compare with."""
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            "streamed shards have no fixed set of images to compare with: give a reference (fid.reference in "
            "training), a folder of images or an npz file of statistics"
        )


class _Numbered(Dataset[Item]):
    """Chosen items by their numbers; an unreadable one is its problem."""

    def __init__(self, dataset: Dataset[Item], chosen: Sequence[int]) -> None:
        self.dataset, self.chosen = dataset, chosen

    def __getitem__(self, number: int) -> Item:
        try:
            item = self.dataset[self.chosen[number]]
        except ValueError as error:
            item = {"problem": str(error), "corrupt": True, "path": str(error)}
        for reason, place in item.get("left_out", [])[:1]:  # another image stands in for it
            item = {"problem": f"{reason}: {place}", "corrupt": True, "path": place}
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
    paths = [item["path"] for item in problems]
    named = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
    said = f"{len(paths)} of {count} images cannot be read ({named})"
    if len(problems) == count or (problems and not skip_corrupt):
        choice = "" if skip_corrupt is None else ", or leave them out with --skip_corrupt true"
        raise ValueError(f"{said}: repair or delete them{choice}")
    if problems:
        rank_zero_warn(f"{said} and are left out")
