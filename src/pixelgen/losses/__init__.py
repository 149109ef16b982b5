"""Loss terms and the objective that holds them."""

from pixelgen.losses.adaptive import AdaptiveWeight
from pixelgen.losses.alignment import PDINO, REPA, cosine_distance
from pixelgen.losses.gate import NoiseGate
from pixelgen.losses.objective import Objective, Prediction, Terms
from pixelgen.losses.perceptual import LPIPS, FeatureDistance, PerceptualLoss
from pixelgen.losses.velocity import FlowMatching, velocity_loss

__all__ = [
    "LPIPS",
    "PDINO",
    "REPA",
    "AdaptiveWeight",
    "FeatureDistance",
    "FlowMatching",
    "NoiseGate",
    "Objective",
    "PerceptualLoss",
    "Prediction",
    "Terms",
    "cosine_distance",
    "velocity_loss",
]
