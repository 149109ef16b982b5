"""Scores of generated images."""

from pixelgen.evaluation.extract import Comparison
from pixelgen.evaluation.reference import Reference
from pixelgen.evaluation.scores import KID, InceptionScore, Metrics, PrecisionRecall, Score
from pixelgen.evaluation.shapes_judge import Detection, ShapesAccuracy, judge
from pixelgen.evaluation.statistics import Moments, Statistics, frechet_distance

__all__ = [
    "KID",
    "Comparison",
    "Detection",
    "InceptionScore",
    "Metrics",
    "Moments",
    "PrecisionRecall",
    "Reference",
    "Score",
    "ShapesAccuracy",
    "Statistics",
    "frechet_distance",
    "judge",
]
