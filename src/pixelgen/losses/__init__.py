"""Loss terms and the objective that holds them."""

from pixelgen.losses.adaptive import AdaptiveWeight
from pixelgen.losses.flow_matching import FlowMatching, velocity_loss
from pixelgen.losses.gate import NoiseGate
from pixelgen.losses.lpips import LPIPS, FeatureDistance, PerceptualLoss
from pixelgen.losses.objective import Objective, Prediction, Terms
from pixelgen.losses.pdino import PDINO, REPA, cosine_distance

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
