"""A score as a user would write it, outside of the package."""

from pixelgen.evaluation import Score


class MeanDistance(Score):
    """Distance of the mean features, and of the features' diversity.

    Args:
        scale: factor.
    """

    name, needs = "mean_distance", ("features",)

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    @property
    def settings(self):
        return {"scale": self.scale}

    def compute(self, generated, reference):
        ours, theirs = (statistics.features.std(0).mean() for statistics in (generated, reference))
        distance = (generated.mu - reference.mu).norm()
        return {self.name: self.scale * float(distance), "diversity": float(ours / theirs)}


class Spread(Score):
    """A single number is enough."""

    name = "spread"

    def compute(self, generated, reference):
        return float(generated.sigma.trace() / reference.sigma.trace())
