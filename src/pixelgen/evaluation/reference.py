"""What generated images are compared with: statistics in a file, images in a file or folder, or training images."""

from dataclasses import dataclass, replace
from pathlib import Path

from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.encoders.inception import INCEPTION
from pixelgen.evaluation.extract import EvaluationJob
from pixelgen.evaluation.images import ARRAY, arrays, open_images
from pixelgen.evaluation.scores import Metrics
from pixelgen.evaluation.statistics import Statistics


@dataclass(frozen=True)
class Reference:
    """Real images, or what is known of them.

    Args:
        path: npz of statistics (ADM's, JiT's, or ours), npz with `arr_0`, or a folder of images.
        samples: how many images to use, evenly spaced over all of them; all if None.
    """

    path: Path
    samples: int | None = None

    @property
    def stored(self) -> set[str]:
        """Names of the arrays in the file; empty for a folder."""
        return arrays(self.path) if self.path.is_file() else set()

    @property
    def complete(self) -> bool:
        """Whether the statistics in the file lack nothing that could be computed from images in it."""
        return "mu" in self.stored and ("features" in self.stored or ARRAY not in self.stored)

    def check(self, extractor: FeatureExtractor, metrics: Metrics, number: int) -> None:
        """Find out what is wrong before so many images are generated.

        A ValueError tells that there is no such reference, or that it holds nothing of use, comes from another
        extractor, or lacks what a required metric needs.
        """
        if "mu" not in self.stored:
            metrics.choose(extractor, min(len(open_images(self.path)), number))
            return
        statistics = Statistics.load(self.path, extractor)
        if not self.complete:  # features of the images in it will be computed
            metrics = replace(metrics, precision_recall=False, kid=False, more=[])
        metrics.choose(extractor, number, statistics)

    def expect_inception(self) -> None:
        """Refuse statistics of another extractor, which the ValueError names, before Inception's weights are needed."""
        made_by = Statistics.load(self.path).extractor if "mu" in self.stored else None
        if made_by not in (None, INCEPTION):
            raise ValueError(
                f"the statistics in {self.path} were made by {made_by}, and Inception is taken if none is given: pass "
                "the extractor that made them (--extractor)"
            )

    def statistics(self, extractor: FeatureExtractor, job: EvaluationJob, size: tuple[int, int]) -> Statistics:
        """Read or compute what a job needs; images are cropped to a `size` (height, width) that is a square.

        All processes must call this, with the extractor on its device.
        """
        if "mu" not in self.stored:
            images = open_images(self.path, size[0] if size[0] == size[1] else None)
            return job.measure(images, extractor, self.samples)
        statistics = Statistics.load(self.path, extractor)
        if self.complete or "features" not in job.metrics.of_reference(extractor):
            return statistics
        return replace(statistics, features=job.measure(open_images(self.path), extractor).features)
