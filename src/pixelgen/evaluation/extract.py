"""Every metric that is on, in one pass of a feature extractor, on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from pixelgen.distributed.processes import first, is_first
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.frechet import FeatureStatistics
from pixelgen.evaluation.inception_score import InceptionScore
from pixelgen.evaluation.kid import kernel_distance
from pixelgen.evaluation.precision_recall import precision_recall
from pixelgen.evaluation.sample import FeatureSample
from pixelgen.evaluation.statistics import Statistics
from pixelgen.evaluation.tf32 import full_float32


@dataclass(frozen=True)
class Metrics:
    """What is measured beside the Fréchet distance: true, false, or null for "where it can be".

    Args:
        sfid: Fréchet distance of spatial features; needs Inception and a reference with `mu_s`, or of images.
        inception_score: needs Inception.
        precision_recall: needs features or images of the reference.
        kid: the same, and as many images as a subset holds.
        splits: of the Inception Score.
        neighbours: k of precision and recall.
        kid_subsets: how many pairs of subsets KID is the mean of.
        kid_subset_size: images in each.
        max_features: images, drawn by `seed`, whose features are kept for precision, recall and KID.
        seed: of every draw.
    """

    sfid: bool | None = None
    inception_score: bool | None = None
    precision_recall: bool | None = None
    kid: bool | None = None
    splits: int = 10
    neighbours: int = 3
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    max_features: int = 10_000
    seed: int = 2020

    def __post_init__(self) -> None:
        counts = ("splits", "neighbours", "kid_subsets", "kid_subset_size", "max_features")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"metrics.{name} is {getattr(self, name)}: give at least 1")

    def lacking(
        self, extractor: FeatureExtractor, num_samples: int, reference: Statistics | None
    ) -> dict[str, str | None]:
        """For each metric what it lacks, None if nothing; arguments as for `possible`."""
        sizes = extractor.sizes
        foreign = reference is not None and reference.mu_s is None
        kept = None if reference is None else 0 if reference.features is None else len(reference.features)
        fewest = num_samples if kept is None else min(num_samples, kept)
        no_spatial = f"{extractor.name} makes no spatial features" if "spatial" not in sizes else None
        return {
            "sfid": no_spatial or ("the reference has no spatial features" if foreign else None),
            "inception_score": None if "logits" in sizes else f"{extractor.name} makes no logits of classes",
            "precision_recall": _too_few(fewest, self.neighbours + 1, kept),
            "kid": _too_few(min(fewest, self.max_features), self.kid_subset_size, kept),
        }

    def possible(self, extractor: FeatureExtractor, num_samples: int, reference: Statistics | None) -> Metrics:
        """The same with every null decided.

        Args:
            extractor: what images are seen with.
            num_samples: how many images there will be.
            reference: what they will be compared with; None if that is yet to be measured, with whatever is needed.

        Raises:
            ValueError: if a metric that is true cannot be computed, naming what it lacks.
        """
        lacks = self.lacking(extractor, num_samples, reference)
        for name, reason in lacks.items():
            if getattr(self, name) and reason:
                raise ValueError(f"metrics.{name} cannot be computed, since {reason}: leave it out")
        return replace(self, **{name: getattr(self, name) is not False and not lack for name, lack in lacks.items()})

    def of_reference(self) -> Metrics:
        """What a reference is measured for, as far as it has enough images; nobody asks for its Inception Score."""
        wished: dict[str, Any] = {name: getattr(self, name) and None for name in ("sfid", "precision_recall", "kid")}
        return replace(self, inception_score=False, **wished)

    def protocol(self) -> dict[str, Any]:
        """The settings that numbers depend on, of the metrics that are on."""
        settings = asdict(self)
        used = {
            "splits": self.inception_score,
            "neighbours": self.precision_recall,
            "kid_subsets": self.kid,
            "kid_subset_size": self.kid,
            "max_features": self.kid or self.precision_recall,
            "seed": self.kid or self.precision_recall or self.inception_score,
        }
        return {name: settings[name] for name, on in used.items() if on}


ONLY_FRECHET = Metrics(sfid=False, inception_score=False, precision_recall=False, kid=False)


class Evaluation(nn.Module):
    """Takes in images batch by batch, each process its share, and measures them all.

    Sums are in float64 and features are kept for at most `metrics.max_features` images, so the memory does not grow
    with the number of images. Only what is on is computed; the extractor runs once for each batch.

    Args:
        extractor: on the device to use.
        num_samples: how many images there will be on all processes; each is known by its number below this.
        metrics: what to measure beside the Fréchet distance; null means whatever the extractor allows.
    """

    def __init__(self, extractor: FeatureExtractor, num_samples: int, metrics: Metrics = ONLY_FRECHET) -> None:
        super().__init__()
        self.extractor, self.metrics = extractor, metrics.possible(extractor, num_samples, None)
        on, sizes = self.metrics, extractor.sizes
        self.all = FeatureStatistics(sizes["features"])
        self.spatial = FeatureStatistics(sizes["spatial"]) if on.sfid else None
        self.logits = InceptionScore(num_samples, sizes["logits"], on.splits, on.seed) if on.inception_score else None
        self.some = None
        if on.precision_recall or on.kid:
            self.some = FeatureSample(num_samples, sizes["features"], on.max_features, on.seed)
        self.wanted = ["features", *["spatial"] * bool(on.sfid), *["logits"] * bool(on.inception_score)]
        self.device = next((weight.device for weight in extractor.network.parameters()), torch.device("cpu"))
        self.to(self.device)

    def update(self, images: Tensor, indices: Sequence[int]) -> None:
        """Add uint8 images (B, 3, H, W) with these numbers."""
        with torch.no_grad(), full_float32():
            seen = self.extractor.outputs(images, self.wanted)
        self.all.update(seen["features"])
        if self.spatial is not None:
            self.spatial.update(seen["spatial"])
        if self.logits is not None:
            self.logits.update(seen["logits"], indices)
        if self.some is not None:
            self.some.update(seen["features"], indices)

    def statistics(self) -> Statistics:
        """What was seen on all processes, on the CPU; all of them must call this."""
        mu, sigma, n = self.all.compute()
        mu_s, sigma_s = (None, None) if self.spatial is None else (part.cpu() for part in self.spatial.compute()[:2])
        features = None if self.some is None else self.some.compute().cpu()
        about = self.extractor.name, self.extractor.weights_sha256
        return Statistics(mu.cpu(), sigma.cpu(), int(n), *about, mu_s, sigma_s, features)

    def scores(self, reference: Statistics) -> dict[str, float]:
        """Every number by its name, the first process's on all of them; all of them must call this.

        Raises:
            ValueError: on all processes, if fewer images came than a metric needs.
        """
        generated = self.statistics()
        split = None if self.logits is None else [float(value) for value in self.logits.compute()]
        name = self.extractor.metric
        scores: dict[str, float] = {}
        problem: str | None = None
        if is_first():
            try:
                with full_float32():
                    scores = compare(generated, reference, self.metrics, self.extractor, self.device)
            except ValueError as error:
                problem = str(error)
            if split is not None:
                scores |= {name("inception_score"): split[0], name("inception_score_std"): split[1]}
        # a decomposition may round differently on different machines
        scores, problem = first((scores, problem))
        if problem is not None:
            raise ValueError(problem)
        return scores


def compare(
    generated: Statistics,
    reference: Statistics,
    metrics: Metrics,
    extractor: FeatureExtractor,
    device: torch.device | None = None,
) -> dict[str, float]:
    """The numbers that two sets of statistics give, those that need both; `metrics` without nulls."""
    name = extractor.metric
    scores = {name("frechet"): generated.distance(reference)}
    if metrics.sfid:
        scores[name("spatial_frechet")] = generated.spatial_distance(reference)
    if metrics.precision_recall or metrics.kid:
        assert generated.features is not None
        assert reference.features is not None
        ours, theirs = generated.features.to(device), reference.features.to(device)
        if metrics.precision_recall:
            precision, recall = precision_recall(ours, theirs, metrics.neighbours)
            scores |= {name("precision"): precision, name("recall"): recall}
        if metrics.kid:
            mean, deviation = kernel_distance(ours, theirs, metrics.kid_subsets, metrics.kid_subset_size, metrics.seed)
            scores |= {name("kid"): mean, name("kid_std"): deviation}
    return scores


def warn_of_few(num_samples: int | None, extractor: FeatureExtractor, what: str = "samples") -> None:
    """Warn if the covariance of so many samples is singular; None is an unknown number."""
    if num_samples is not None and num_samples <= extractor.num_features:
        rank_zero_warn(
            f"{num_samples} {what} are too few for {extractor.num_features} features: the Fréchet distance is "
            "biased, and comparable only with others of the same number of samples"
        )


def _too_few(fewest: int, least: int, kept: int | None) -> str | None:
    if fewest >= least:
        return None
    return "the reference holds no features of images" if kept == 0 else f"{fewest} images are fewer than {least}"
