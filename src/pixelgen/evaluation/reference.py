"""What generated images are compared with: statistics in a file, images in a file or folder, or training images."""

from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.encoders.inception import INCEPTION
from pixelgen.evaluation.extract import EvaluationJob
from pixelgen.evaluation.images import ARRAY, arrays, checksum, open_images
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

    def look(self, extractor: FeatureExtractor | None) -> None:
        """Find out, before weights are looked for, that there is nothing, or what Inception would not fit.

        A ValueError tells that there is no such reference, or that it was made by another extractor than Inception,
        which is taken if none is given.
        """
        if "mu" not in self.stored:
            open_images(self.path)
        elif extractor is None and (made_by := Statistics.load(self.path).extractor) not in (None, INCEPTION):
            raise ValueError(
                f"the statistics in {self.path} were made by {made_by}, and Inception is taken if none is given: pass "
                "the extractor that made them (--extractor)"
            )

    def check(
        self, extractor: FeatureExtractor, metrics: Metrics, number: int, size: tuple[int, int] | None = None
    ) -> None:
        """Find out what is wrong before so many images, of a `size` (height, width), are generated.

        A ValueError tells that there is no such reference, that it holds nothing of use, comes from another extractor
        or from images of another size, or lacks what a required metric needs.
        """
        if "mu" not in self.stored:
            metrics.choose(extractor, min(len(open_images(self.path)), number))
            return
        statistics = self._load(extractor, size)
        if not self.complete:  # features of the images in it will be computed
            metrics = replace(metrics, precision_recall=False, kid=False, more=[])
        metrics.choose(extractor, number, statistics)

    def statistics(self, extractor: FeatureExtractor, job: EvaluationJob, size: tuple[int, int]) -> Statistics:
        """Read or compute what a job needs, for images of a `size` (height, width).

        Images are cropped to a size that is a square, and a warning tells if they have another one; statistics of
        images of another size are refused. All processes must call this, with the extractor on its device.
        """
        if "mu" not in self.stored:
            images = open_images(self.path, size[0] if size[0] == size[1] else None, job.upright)
            self._tell_of_size(images.own, images.size, size)
            return job.measure(images, extractor, self.samples)
        statistics = self._load(extractor, size)
        if self.complete or "features" not in job.metrics.of_reference(extractor):
            return statistics
        return replace(
            statistics, features=job.measure(open_images(self.path, upright=job.upright), extractor).features
        )

    def _tell_of_size(self, own: tuple[int, int], used: tuple[int, int], wanted: tuple[int, int]) -> None:
        """Refuse images that are not used at the wanted size, and warn of those that have another one."""
        if used != wanted:
            raise ValueError(
                f"{self.path} is of {used[1]}x{used[0]} px images, and {wanted[1]}x{wanted[0]} px images cannot be "
                "compared with them: give a reference of that size"
            )
        if own != used:
            rank_zero_warn(
                f"the images in {self.path} are not {used[1]}x{used[0]} px (the first is {own[1]}x{own[0]} px): they "
                "are resized and cropped to that"
            )

    def _load(self, extractor: FeatureExtractor, size: tuple[int, int] | None) -> Statistics:
        """The statistics in the file, of images of this size as far as it tells theirs."""
        statistics = Statistics.load(self.path, extractor)
        if ARRAY in self.stored:
            statistics = replace(statistics, pixels=open_images(self.path).size, images=checksum(self.path))
        if statistics.pixels is not None and size is not None:
            self._tell_of_size(statistics.pixels, statistics.pixels, size)
        return statistics
