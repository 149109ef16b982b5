"""Numbers that judge generated images."""

from pixelgen.evaluation.extract import Evaluation, Metrics
from pixelgen.evaluation.frechet import FeatureStatistics, frechet_distance
from pixelgen.evaluation.inception_score import InceptionScore
from pixelgen.evaluation.kid import kernel_distance
from pixelgen.evaluation.precision_recall import precision_recall
from pixelgen.evaluation.shapes_judge import Detection, ShapesAccuracy, judge
from pixelgen.evaluation.statistics import Statistics

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
