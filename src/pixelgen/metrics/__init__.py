"""Numbers that judge generated images."""

from pixelgen.metrics.frechet import FeatureStatistics, Statistics, frechet_distance
from pixelgen.metrics.judge import Detection, ShapesAccuracy, judge

__all__ = ["Detection", "FeatureStatistics", "ShapesAccuracy", "Statistics", "frechet_distance", "judge"]
