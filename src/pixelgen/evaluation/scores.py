"""Scores: each says what it needs of generated and real images, and computes its numbers from that."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from pixelgen.checks import COUNT, Range, check_fields
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.statistics import Statistics

OUTPUTS = {"spatial": "spatial features", "logits": "logits of classes"}  # that not every extractor makes


class Score:
    """One or several numbers about generated images, most often against real ones.

    A score of your own is a subclass, named by its class path in `metrics.more`. Every number becomes
    `<name>/<extractor>`, or plain `<name>` in Inception's features.

    Attributes:
        name: in messages and protocols.
        needs: what of `Statistics` must be there: `moments` (`mu` and `sigma`, which always are), `spatial` (`mu_s`,
            `sigma_s`), `features` (of some images), or `logits` (of the generated images alone).
        least: how many images of either set must have `features`.

    Example:
        class MeanDistance(Score):
            name, needs = "mean_distance", ("moments",)

            def compute(self, generated, reference):
                return {self.name: float((generated.mu - reference.mu).norm())}
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("moments",)
    least: int = 2

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on beside the images, for protocols (JSON): the fields of a dataclass."""
        return asdict(self) if is_dataclass(self) else {}

    def compute(self, generated: Statistics, reference: Statistics) -> dict[str, float] | float:
        """Each number by its name, or the only number."""
        raise NotImplementedError

    def unsupported(self, extractor: FeatureExtractor) -> str | None:
        """Which of its needs the extractor does not make, in words; None if it makes all."""
        missing = [what for need, what in OUTPUTS.items() if need in self.needs and need not in extractor.sizes]
        return f"{extractor.name} makes no {missing[0]}" if missing else None

    def lacks(self, number: int, at_most: int, reference: Statistics | None) -> str | None:
        """What else is missing, in words, with `number` generated images; None if nothing.

        A reference that is None is yet to be measured, with whatever is needed, and features of so many images at most.
        """
        if "spatial" in self.needs and reference is not None and reference.mu_s is None:
            return "the reference has no spatial features"
        if "features" not in self.needs:
            return None
        if reference is not None:
            if reference.features is None:
                return "the reference holds no features of images"
            at_most = len(reference.features)
        fewest = min(number, at_most)
        return f"{fewest} images are fewer than {self.least}" if fewest < self.least else None


class Frechet(Score):
    """Squared Fréchet distance of the features: FID, if they are Inception's."""

    name = "frechet"

    def compute(self, generated: Statistics, reference: Statistics) -> dict[str, float]:
        """`frechet`."""
        return {self.name: generated.distance(reference)}


class SpatialFrechet(Score):
    """The same of spatial features: sFID, if they are Inception's."""

    name, needs = "spatial_frechet", ("spatial",)

    def compute(self, generated: Statistics, reference: Statistics) -> dict[str, float]:
        """`spatial_frechet`."""
        return {self.name: generated.spatial_distance(reference)}


@dataclass(frozen=True)
class InceptionScore(Score):
    """exp of the mean Kullback–Leibler divergence of p(y|x) from p(y) (Salimans et al., arXiv:1606.03498).

    Args:
        splits: parts of the shuffled images; mean and deviation over their scores.
        seed: of the shuffling.
    """

    splits: int = 10
    seed: int = 2020

    name, needs = "inception_score", ("logits",)
    shuffle: ClassVar[bool] = True  # whether splits are of shuffled images, or of images in their order

    def compute(self, generated: Statistics, reference: Statistics) -> dict[str, float]:
        """`inception_score` and `inception_score_std`."""
        from torch_fidelity.metric_isc import isc_features_to_metric

        assert generated.logits is not None
        splits = min(self.splits, len(generated.logits))  # none is empty
        mean, deviation = isc_features_to_metric(generated.logits, splits, self.shuffle, self.seed).values()
        return {self.name: mean, f"{self.name}_std": deviation}


@dataclass(frozen=True)
class PrecisionRecall(Score):
    """Improved precision and recall (Kynkäänniemi et al., arXiv:1904.06991).

    A feature vector is among others if it is no farther from one of them than that one's k-th nearest of its own kind.
    As in ADM's suite, all generated images are compared with the reference's, most often fewer: recall depends on the
    ratio.

    Args:
        neighbours: k.
    """

    neighbours: int = 3

    name, needs = "precision_recall", ("features",)

    @property
    def least(self) -> int:  # type: ignore[override]
        """One more than neighbours, since each is its own nearest."""
        return self.neighbours + 1

    def compute(self, generated: Statistics, reference: Statistics) -> dict[str, float]:
        """`precision` and `recall`."""
        from torch_fidelity.metric_prc import prc_features_to_metric

        # in blocks: the whole matrix of distances of 50 000 images would be 10 GB
        options = {"prc_neighborhood": self.neighbours, "prc_batch_size": 2048, "save_cpu_ram": True}
        found = prc_features_to_metric(generated.features, reference.features, verbose=False, **options)
        return {name: found[name] for name in ("precision", "recall")}


@dataclass(frozen=True)
class KID(Score):
    """Kernel distance (Bińkowski et al., arXiv:1801.01401): unbiased squared discrepancy, kernel (x·y/D + 1)³.

    Args:
        kid_subsets: how many pairs of subsets; mean and deviation over their distances.
        kid_subset_size: images in each, drawn without replacement.
        seed: of the draws.
    """

    kid_subsets: int = 100
    kid_subset_size: int = 1000
    seed: int = 2020

    name, needs = "kid", ("features",)

    @property
    def least(self) -> int:  # type: ignore[override]
        """A subset."""
        return self.kid_subset_size

    def compute(self, generated: Statistics, reference: Statistics) -> dict[str, float]:
        """`kid` and `kid_std`."""
        from torch_fidelity.metric_kid import kid_features_to_metric

        ours, theirs = (part.features.double() for part in (generated, reference))  # type: ignore[union-attr]
        options = {"kid_subsets": self.kid_subsets, "kid_subset_size": self.kid_subset_size, "rng_seed": self.seed}
        mean, deviation = kid_features_to_metric(ours, theirs, verbose=False, **options).values()
        return {self.name: mean, f"{self.name}_std": deviation}


@dataclass(frozen=True)
class Metrics:
    """What is measured beside the Fréchet distance: true (required), false (off), or null (computed when possible).

    Args:
        sfid: Fréchet distance of spatial features; needs Inception and a reference with `mu_s`, or of images.
        inception_score: needs Inception.
        precision_recall: needs features or images of the reference.
        kid: the same, and as many images as a subset holds.
        splits: of the Inception Score.
        neighbours: k of precision and recall.
        kid_subsets: how many pairs of subsets KID is the mean of.
        kid_subset_size: images in each.
        max_features: images of the reference, drawn by `seed`, whose features are kept for precision, recall, KID and
            others; of generated images, all are.
        seed: of every draw.
        more: scores of your own, which are required; see `pixelgen.evaluation.Score`.
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
    more: list[Score] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = ("splits", "neighbours", "kid_subsets", "kid_subset_size", "max_features")
        check_fields(self, "metrics.", **dict.fromkeys(names, COUNT), seed=Range(0, 2**32 - 1))

    def drawn(self, number: int) -> list[int]:
        """Numbers of the images of a reference, of so many, whose features are kept."""
        order: list[int] = np.random.RandomState(self.seed).permutation(number).tolist()
        return order[: self.max_features]

    def wanted(self) -> dict[str, tuple[Score, bool | None]]:
        """Every score that is not off, by the name of its flag, and whether it is required."""
        named: dict[str, Score] = {
            "sfid": SpatialFrechet(),
            "inception_score": InceptionScore(self.splits, self.seed),
            "precision_recall": PrecisionRecall(self.neighbours),
            "kid": KID(self.kid_subsets, self.kid_subset_size, self.seed),
        }
        entries = {name: (score, getattr(self, name)) for name, score in named.items()}
        entries |= {score.name: (score, True) for score in self.more}
        return {name: entry for name, entry in entries.items() if entry[1] is not False}

    def choose(
        self, extractor: FeatureExtractor, number: int, reference: Statistics | None = None
    ) -> tuple[list[Score], dict[str, str]]:
        """The scores to compute, the Fréchet distance first; and why others, which the extractor allows, are left out.

        A reference that is None is yet to be measured, with whatever is needed.

        Raises:
            ValueError: if a required score cannot be computed with so many images, naming what it lacks.
        """
        scores: list[Score] = [Frechet()]
        left_out: dict[str, str] = {}
        for name, (score, required) in self.wanted().items():
            unsupported = score.unsupported(extractor)
            reason = unsupported or score.lacks(number, self.max_features, reference)
            if reason is None:
                scores.append(score)
            elif required:
                raise ValueError(f"metrics.{name} cannot be computed, since {reason}: leave it out")
            elif not unsupported:
                left_out[name] = reason
        return scores, left_out

    def of_reference(self, extractor: FeatureExtractor) -> set[str]:
        """What a reference is measured for."""
        scores = [score for score, _ in self.wanted().values() if not score.unsupported(extractor)]
        return needs(scores) - {"logits"}

    def settings(self, scores: Sequence[Score]) -> dict[str, Any]:
        """What the numbers of these scores depend on, for protocols."""
        found = {name: value for score in scores for name, value in score.settings.items()}
        return found | ({"max_features": self.max_features, "seed": self.seed} if "features" in needs(scores) else {})


ONLY_FRECHET = Metrics(sfid=False, inception_score=False, precision_recall=False, kid=False)


def needs(scores: Sequence[Score]) -> set[str]:
    """Everything that these scores need."""
    return {need for score in scores for need in score.needs}


def warn_of_few(number: int | None, extractor: FeatureExtractor, what: str = "samples") -> None:
    """Warn if the covariance of so many samples is singular; None is an unknown number."""
    if number is not None and number <= extractor.num_features:
        rank_zero_warn(
            f"{number} {what} are too few for {extractor.num_features} features: the Fréchet distance is "
            "biased, and comparable only with others of the same number of samples"
        )
