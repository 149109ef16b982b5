"""P-DINO: global structure, in the patch tokens of a frozen encoder."""

from torch import Tensor
from torch.nn import functional as F

from pixelgen.checks import checked
from pixelgen.losses.term import Prediction, Term


def cosine_distance(tokens: Tensor, target: Tensor) -> Tensor:
    """`1 - mean over tokens of cos(tokens, target)`: (B, N, D) twice → (B,), in float32."""
    return 1 - F.cosine_similarity(tokens.float(), target.float(), dim=-1).mean(1)


class PDINO(Term):
    """Perceptual DINO loss: cosine distance between DINO tokens of the predicted and of the clean image.

    Args:
        weight: weight in the objective.
        gated: true looks only at samples that pass the noise gate, as the paper says; false averages over all samples,
            as the release does and the published numbers have it.
    """

    name = "pdino"
    perceptual = True
    uses_encoder = True

    @checked()
    def __init__(self, weight: float = 0.01, gated: bool = False) -> None:
        self.weight = weight
        self.gated = gated

    def compute(self, p: Prediction) -> Tensor:
        """Distance of each sample (B,)."""
        target = p.tokens
        return cosine_distance(p.predicted_tokens, target)
