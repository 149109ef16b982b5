"""REPA: the denoiser's hidden states aligned with the patch tokens of a frozen encoder."""

from torch import Tensor, nn

from pixelgen.checks import COUNT, FROM_ZERO, checked
from pixelgen.encoders import PatchEncoder
from pixelgen.losses.pdino import cosine_distance
from pixelgen.losses.term import Prediction, Term
from pixelgen.models import Denoiser


class REPA(nn.Module, Term):
    """Representation alignment: hidden patch tokens, projected, against DINO tokens of the clean image.

    Args:
        layer: block whose incoming patch tokens are aligned.
        weight: weight in the objective; 0.5 as released (the paper's formula writes 1).
        projector_dim: hidden width of the projector; null for the denoiser's width.
    """

    name = "repa"
    uses_encoder = True

    @checked(layer=FROM_ZERO, projector_dim=COUNT)
    def __init__(self, layer: int = 8, weight: float = 0.5, projector_dim: int | None = None) -> None:
        super().__init__()
        self.layer: int = layer
        self.weight = weight
        self.projector_dim = projector_dim

    def connect(self, denoiser: Denoiser, encoder: PatchEncoder | None) -> None:
        """Build the projector, Linear-SiLU-Linear-SiLU-Linear; a ValueError says what the denoiser lacks."""
        assert encoder is not None
        denoiser.require("objective.repa", "hidden_size", "blocks", "forward_with_features")
        depth, hidden_size = len(denoiser.blocks), denoiser.hidden_size
        if not 0 <= self.layer < depth:
            raise ValueError(f"repa.layer is {self.layer}, but the denoiser has blocks 0 to {depth - 1}")
        width = self.projector_dim or hidden_size
        layers = [nn.Linear(hidden_size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        # a Sequential inside a Sequential, as in the published checkpoints
        self.proj = nn.Sequential(nn.Sequential(*layers, nn.Linear(width, encoder.num_features)))

    def compute(self, p: Prediction) -> Tensor:
        """Distance of each sample (B,)."""
        assert p.hidden is not None
        if p.hidden.shape[1] != p.tokens.shape[1]:
            raise ValueError(
                f"REPA needs one encoder token per patch, but the denoiser has {p.hidden.shape[1]} patches and the "
                f"encoder gives {p.tokens.shape[1]} tokens: match the encoder's patch size to the denoiser's"
            )
        return cosine_distance(self.proj(p.hidden), p.tokens)
