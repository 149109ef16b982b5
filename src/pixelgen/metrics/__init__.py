"""Numbers that judge generated images."""

from pixelgen.metrics.evaluation import Evaluation, Metrics
from pixelgen.metrics.frechet import FeatureStatistics, frechet_distance
from pixelgen.metrics.inception_score import InceptionScore
from pixelgen.metrics.judge import Detection, ShapesAccuracy, judge
from pixelgen.metrics.kernel import kernel_distance
from pixelgen.metrics.neighbours import precision_recall
from pixelgen.metrics.statistics import Statistics

__all__ = [
    "Detection",
    "Evaluation",
    "FeatureStatistics",
    "InceptionScore",
    "Metrics",
    "ShapesAccuracy",
    "Statistics",
    "frechet_distance",
    "judge",
    "kernel_distance",
    "precision_recall",
]
