"""A set of images on disk, scored against references, with all that the scores depend on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation import protocol
from pixelgen.evaluation.images import open_images
from pixelgen.evaluation.job import EvaluationJob
from pixelgen.evaluation.reference import Reference
from pixelgen.evaluation.scores import Comparison, warn_of_few
from pixelgen.samples.generate import file_name
from pixelgen.samples.settings import SETTINGS

Pair = tuple[FeatureExtractor, Reference]


class Scores(dict[str, float]):
    """Each score by its name, and all that they depend on as `protocol`.

    Args:
        scores: by name.
        protocol: for JSON.
    """

    def __init__(self, scores: dict[str, float], protocol: dict[str, Any]) -> None:
        super().__init__(scores)
        self.protocol = protocol


def score_set(source: Path, number: int | None, pairs: Sequence[Pair], job: EvaluationJob) -> Scores:
    """Score the first images of a folder or npz in one pass; all processes must call this.

    Args:
        source: the images.
        number: how many; all if None.
        pairs: extractors on their device, each with its reference.
        job: what to compute.

    Raises:
        ValueError: naming what is wrong with the images or a reference.
    """
    images = open_images(source)
    count = len(images) if number is None else number
    if not 2 <= count <= len(images):
        raise ValueError(f"{source} holds {len(images)} images: give a num_images from 2 to that, not {count}")
    refuse_unfinished(source, count)
    comparisons = []
    for extractor, reference in pairs:
        warn_of_few(count, extractor)
        job.metrics.possible(extractor, count)
        real = reference.statistics(extractor, job, images.size)
        warn_of_few(real.n, extractor, "reference images")
        comparisons.append(Comparison(extractor, real, count, job.metrics))
    skipped = job.extract(images, [comparison.extraction for comparison in comparisons], range(count))
    scores = {name: value for comparison in comparisons for name, value in comparison.scores().items()}
    features = [_about(*each) for each in zip(comparisons, pairs, strict=True)]
    about = {"source": str(source), "images": count - skipped, "skipped": skipped, "pixels": list(images.size)}
    about |= protocol.of_the_set(source) | {"features": features, "versions": protocol.versions()}
    return Scores(scores, about)


def _about(comparison: Comparison, pair: Pair) -> dict[str, Any]:
    """The part of the protocol about one extractor."""
    return {
        "extractor": comparison.extractor.name,
        "weights_sha256": comparison.extractor.weights_sha256,
        "reference": pair[1].path.name,
        "reference_images": comparison.reference.n,
        "reference_fingerprint": comparison.reference.fingerprint,
        **comparison.protocol,
    }


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
