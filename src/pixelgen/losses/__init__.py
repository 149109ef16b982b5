"""Loss terms and the objective that holds them."""

from pixelgen.losses.adaptive import AdaptiveWeight
from pixelgen.losses.flow_matching import FlowMatching, velocity_loss
from pixelgen.losses.gate import Gate, NoiseGate
from pixelgen.losses.lpips import LPIPS, FeatureDistance, PerceptualLoss
from pixelgen.losses.objective import Objective, Terms
from pixelgen.losses.pdino import PDINO, cosine_distance
from pixelgen.losses.repa import REPA
from pixelgen.losses.term import Prediction, Term

__all__ = [
    "LPIPS",
    "PDINO",
    "REPA",
    "AdaptiveWeight",
    "FeatureDistance",
    "FlowMatching",
    "Gate",
    "NoiseGate",
    "Objective",
    "PerceptualLoss",
    "Prediction",
    "Term",
    "Terms",
    "cosine_distance",
    "velocity_loss",
]
