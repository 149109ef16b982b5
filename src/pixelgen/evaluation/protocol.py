"""Published protocols: every number of them fixed, and whatever disagrees refused by its name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pixelgen.conditioner import Conditioner, Labels
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.encoders.inception import INCEPTION
from pixelgen.evaluation.images import ARRAY, open_images
from pixelgen.evaluation.reference import Reference
from pixelgen.evaluation.score_set import UNKNOWN
from pixelgen.evaluation.scores import InceptionScore, Metrics
from pixelgen.flow import Sampler
from pixelgen.samples.sampling import Sampling

CHECKED_APART = ("sampler", "precision")  # which matter only where images are made
FREE = ("ema", "seed", "batch_size", "devices", "num_nodes", "compile", *CHECKED_APART)
PRECISION = "bf16-mixed"


class InceptionScoreInOrder(InceptionScore):
    """The same of images in their order, as ADM's suite splits them."""

    shuffle = False

    @property
    def settings(self) -> dict[str, Any]:
        """Splits, and that nothing was shuffled."""
        return {"splits": self.splits, "shuffled": False}


@dataclass(frozen=True)
class Protocol:
    """How a published number is measured: 50 000 images, 50 of each ImageNet class, in Inception's features.

    Every method raises a ValueError that names the first option, file or property that disagrees.

    Args:
        name: as users give it.
        metrics: what is measured beside FID.
        arrays: what the reference npz holds.
        absent: what it does not hold.
        sampler: settings that are fixed; of others, every network has its own.
        images: number of generated images.
        classes: of the network, each as often as the others.
        real: images in the reference, where it holds some.
        extractor: name of the feature extractor.
        weights: first digits of the SHA-256 of its weights.
    """

    name: str
    metrics: Metrics
    arrays: frozenset[str]
    absent: frozenset[str] = frozenset()
    sampler: Mapping[str, Any] = field(default_factory=dict)
    images: int = 50_000
    classes: int = 1000
    real: int = 10_000
    extractor: str = INCEPTION
    weights: str = "6726825d"

    def check_options(self, sampling: Sampling, **options: Any) -> None:
        """Refuse options of `evaluate` that are neither at their defaults nor what is fixed."""
        fixed = {"num_images": self.images, "metrics": self.metrics}
        defaults = {"metrics": Metrics(), "skip_corrupt": False, **vars(Sampling())}
        options |= {name: value for name, value in vars(sampling).items() if name not in FREE}
        for name, value in options.items():
            if value not in (defaults.get(name), fixed.get(name)):
                raise ValueError(f"--protocol {self.name} fixes {name}: leave out --{name}")

    def check_reference(self, reference: Reference) -> None:
        """Refuse a reference that is not the one of the protocol, as far as its content tells."""
        lacking, other = sorted(self.arrays - reference.stored), sorted(self.absent & reference.stored)
        if lacking or other:
            said = f"lacks {', '.join(lacking)}" if lacking else f"holds {', '.join(other)} too"
            wanted = f"an npz of {', '.join(sorted(self.arrays))}{' alone' if self.absent else ''}"
            raise ValueError(f"--protocol {self.name} fixes --reference, {wanted}: {reference.path} {said}")
        if ARRAY in self.arrays and (number := len(open_images(reference.path))) != self.real:
            self._check("the number of images in --reference", self.real, number)

    def check_extractor(self, extractor: FeatureExtractor) -> None:
        """Refuse another extractor, or other weights of it."""
        self._check("--extractor", self.extractor, extractor.name)
        self._check("the SHA-256 of its weights", self.weights, (extractor.weights_sha256 or "")[: len(self.weights)])

    def check_network(self, conditioner: Conditioner, sampler: Sampler, precision: str) -> None:
        """Refuse a network without classes, or of other ones, and another sampler or precision."""
        number = conditioner.num_classes if isinstance(conditioner, Labels) else None
        self._check("the number of classes of the network", self.classes, number)
        self._check("--precision", PRECISION, precision)
        self._check_sampler(sampler.settings())

    def check_set(self, about: Mapping[str, Any], number: int) -> None:
        """Refuse images that were made otherwise: `about` is what their `settings.json` tells, or "unknown"."""
        if about["classes"] != UNKNOWN:
            self._check("how classes are drawn", Labels.description, about["classes"])
            self._check("--precision", PRECISION, about["precision"])
            self._check_sampler(about["sampler"])
        if number < self.images or about["classes"] == UNKNOWN:  # the first ones of a set of ours are scored
            self._check("the number of images", self.images, number)

    def _check_sampler(self, settings: Mapping[str, Any]) -> None:
        """An interval matters only where there is guidance."""
        for name, value in self.sampler.items():
            if settings["guidance"] != 1 or not name.startswith("guidance"):
                self._check("--sampler" if name == "class" else f"--sampler.{name}", value, settings.get(name))

    def _check(self, what: str, fixed: Any, found: Any) -> None:
        if found != fixed:
            raise ValueError(f"--protocol {self.name} fixes {what}, {fixed}: it cannot be {found}")


PROTOCOLS = {
    "adm": Protocol(
        "adm",
        Metrics(sfid=True, inception_score=False, precision_recall=True, kid=False, more=[InceptionScoreInOrder()]),
        arrays=frozenset({"mu", "sigma", "mu_s", "sigma_s", ARRAY}),
    ),
    "jit": Protocol(
        "jit",
        Metrics(sfid=False, inception_score=True, precision_recall=False, kid=False),
        arrays=frozenset({"mu", "sigma"}),
        absent=frozenset({"mu_s", ARRAY, "features"}),
        sampler={"class": "Heun", "exact": True, "num_steps": 50, "shift": 1.0, "t_eps": 0.05, "guidance_min": 0.1,
                 "guidance_max": 1.0},
    ),
}  # fmt: skip
