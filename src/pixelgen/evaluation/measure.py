"""Images and references measured by the processes of a command."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning import Fabric
from torch.utils.data import Dataset

from pixelgen.data.images import Item
from pixelgen.data.sets import ARRAY, arrays, open_images
from pixelgen.distributed.processes import progress
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.encoders.inception import INCEPTION
from pixelgen.evaluation import protocol
from pixelgen.evaluation.extract import ONLY_FRECHET, Evaluation, Metrics, warn_of_few
from pixelgen.evaluation.reference import read_reference, show
from pixelgen.evaluation.statistics import Statistics
from pixelgen.samples.generate import file_name
from pixelgen.samples.settings import SETTINGS

SCORES = "evaluation.json"
OUTPUTS = {"sfid": "spatial", "inception_score": "logits"}  # what else than features they look at


class Scores(dict[str, float]):
    """Each score by its name, and all that they depend on as `protocol`.

    Args:
        scores: by name.
        protocol: for JSON.
    """

    def __init__(self, scores: dict[str, float], protocol: dict[str, Any]) -> None:
        super().__init__(scores)
        self.protocol = protocol


def scores_file(source: str | Path) -> Path:
    """Where the scores of images go: `evaluation.json` in their folder, `<name>.evaluation.json` beside an npz."""
    path = Path(source)
    return path / SCORES if path.is_dir() else path.with_name(f"{path.stem}.{SCORES}")


@dataclass(frozen=True)
class Work:
    """How images are read and measured; the arguments of `evaluate`, and its processes."""

    fabric: Fabric
    metrics: Metrics
    batch_size: int
    num_workers: int
    skip_corrupt: bool

    def scores(
        self, source: Path, num_images: int | None, seers: Sequence[FeatureExtractor], references: Sequence[Path]
    ) -> Scores:
        """Score the images of a folder or npz."""
        images = open_images(source)
        count = len(images) if num_images is None else num_images
        if not 2 <= count <= len(images):
            raise ValueError(f"{source} holds {len(images)} images: give a num_images from 2 to that, not {count}")
        refuse_unfinished(source, count)
        judges, real = [], []
        for seer, path in zip(seers, references, strict=False):
            warn_of_few(count, seer)
            self.metrics.possible(seer, count, None)
            real.append(self.reference(path, seer, images.size))
            warn_of_few(real[-1].n, seer, "reference images")
            judges.append(Evaluation(seer, count, self.metrics.possible(seer, count, real[-1])))
        skipped = self.show(images, judges, range(count), "images")
        scores: dict[str, float] = {}
        for judge, statistics in zip(judges, real, strict=True):
            scores |= judge.scores(statistics)
        features = [self._features(*each, count) for each in zip(judges, real, references, strict=False)]
        about = {"source": str(source), "images": count - skipped, "skipped": skipped, "pixels": list(images.size)}
        about |= protocol.of_the_set(source) | {"features": features, "versions": protocol.versions()}
        return Scores(scores, about)

    def reference(self, path: Path, seer: FeatureExtractor, size: tuple[int, int]) -> Statistics:
        """Statistics out of a file, or of images cropped to a size (height, width)."""
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        if _holds_statistics(path):
            return read_reference(path, seer, self.metrics, self.batch_size, rank, world_size)
        images = open_images(path, size[0] if size[0] == size[1] else None)
        return self.measure(images, range(len(images)), seer)

    def measure(self, images: Dataset[Item], chosen: Sequence[int], seer: FeatureExtractor) -> Statistics:
        """Statistics of the chosen images."""
        evaluation = Evaluation(seer, len(chosen), self.metrics.of_reference())
        self.show(images, [evaluation], chosen, "reference")
        return evaluation.statistics()

    def show(self, images: Dataset[Item], judges: Sequence[Evaluation], chosen: Sequence[int], what: str) -> int:
        """Show images to evaluations, with progress; the number of unreadable ones that were left out."""
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        batches = -(-len(range(rank, len(chosen), world_size)) // self.batch_size)
        with progress(self.fabric, len(chosen), max(1, batches), what) as advance:
            sharing: dict[str, Any] = {"rank": rank, "world_size": world_size, "advance": advance}
            workers = min(self.num_workers, os.cpu_count() or 1)
            return show(images, judges, chosen, self.batch_size, workers, skip_corrupt=self.skip_corrupt, **sharing)

    def _features(self, judge: Evaluation, real: Statistics, path: Path, count: int) -> dict[str, Any]:
        """The part of the protocol about one extractor."""
        sizes, lacking = judge.extractor.sizes, self.metrics.lacking(judge.extractor, count, real)
        asked = [
            name for name in lacking if OUTPUTS.get(name, "features") in sizes and getattr(self.metrics, name) is None
        ]
        return {
            "extractor": judge.extractor.name,
            "weights_sha256": judge.extractor.weights_sha256,
            "reference": path.name,
            "reference_images": real.n,
            "reference_fingerprint": real.fingerprint,
            "settings": judge.metrics.protocol(),
            "left_out": {name: lacking[name] for name in asked if lacking[name]},
        }


def _holds_statistics(path: Path) -> bool:
    return path.is_file() and "mu" in arrays(path)


def refuse_unfinished(source: Path, count: int) -> None:
    """Refuse a set of `pixelgen.sample` that lacks one of its first images: its classes would not come in turn.

    Raises:
        ValueError: naming the image.
    """
    if not (source / SETTINGS).is_file():
        return
    names = set(os.listdir(source))
    lacking = next((name for name in map(file_name, range(count)) if name not in names), None)
    if lacking is not None and any(re.fullmatch(r"\d{6}\.png", name) for name in names):
        raise ValueError(
            f"{source} lacks {lacking} of {count} images: finish it by the command that makes it, or give the number "
            "of images before that one as num_images"
        )


def expect_inception(path: Path) -> None:
    """Refuse statistics of another extractor, before anybody looks for Inception's weights.

    Raises:
        ValueError: naming it.
    """
    made_by = Statistics.load(path).extractor if _holds_statistics(path) else None
    if made_by not in (None, INCEPTION):
        raise ValueError(
            f"the statistics in {path} were made by {made_by}, and Inception is taken if none is given: pass the "
            "extractor that made them (--extractor)"
        )


def check_reference(
    path: Path, seer: FeatureExtractor, metrics: Metrics = ONLY_FRECHET, num_images: int | None = None
) -> None:
    """Find out what is wrong with a reference before images are made.

    Args:
        path: of the reference.
        seer: what images are seen with.
        metrics: those that are true are checked.
        num_images: how many images will be made; as many as in the reference if not given.

    Raises:
        ValueError: if it does not exist, holds nothing of use, comes from another extractor, or lacks what a metric
            needs.
    """
    if _holds_statistics(path):
        statistics = Statistics.load(path, seer)
        if statistics.features is None and ARRAY in arrays(path):  # features of those images will be measured
            metrics = replace(metrics, precision_recall=False, kid=False)
        metrics.possible(seer, num_images or statistics.n or metrics.max_features, statistics)
    else:
        count = len(open_images(path))
        metrics.possible(seer, min(count, num_images or count), None)
