"""Losses in the patch tokens of a frozen encoder: P-DINO for global structure, REPA for the hidden states."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def cosine_distance(tokens: Tensor, target: Tensor) -> Tensor:
    """`1 - mean over tokens of cos(tokens, target)`: (B, N, D) twice → (B,), in float32."""
    return 1 - F.cosine_similarity(tokens.float(), target.float(), dim=-1).mean(1)


class PDINO(nn.Module):
    """Perceptual DINO loss: cosine distance between DINO tokens of the predicted and of the clean image.

    Args:
        weight: weight in the objective.
        gated: true looks only at samples that pass the noise gate, as the paper says; false averages over all samples,
            as the release does and the published numbers have it.
    """

    name = "pdino"

    def __init__(self, weight: float = 0.01, gated: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.gated = gated

    def forward(self, tokens: Tensor, target: Tensor) -> Tensor:
        """Tokens (B, N, D) of prediction and clean image → (B,)."""
        return cosine_distance(tokens, target)


class REPA(nn.Module):
    """Representation alignment: hidden patch tokens, projected, against DINO tokens of the clean image.

    Args:
        layer: block whose incoming patch tokens are aligned.
        weight: weight in the objective; 0.5 as released (the paper's formula writes 1).
        projector_dim: hidden width of the projector; null for the denoiser's width.
    """

    name = "repa"

    def __init__(self, layer: int = 8, weight: float = 0.5, projector_dim: int | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.weight = weight
        self.projector_dim = projector_dim

    def connect(self, hidden_size: int, num_features: int) -> None:
        """Build the projector, Linear-SiLU-Linear-SiLU-Linear, between denoiser and encoder."""
        width = self.projector_dim or hidden_size
        layers = [nn.Linear(hidden_size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        # a Sequential inside a Sequential, as in the published checkpoints
        self.proj = nn.Sequential(nn.Sequential(*layers, nn.Linear(width, num_features)))

    def forward(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Hidden tokens (B, N, D) and encoder tokens (B, N, num_features) → (B,)."""
        if hidden.shape[1] != target.shape[1]:
            raise ValueError(
                f"REPA needs one encoder token per patch, but the denoiser has {hidden.shape[1]} patches and the "
                f"encoder gives {target.shape[1]} tokens: match the encoder's patch size to the denoiser's"
            )
        return cosine_distance(self.proj(hidden), target)
