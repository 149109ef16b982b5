"""What a loss term is: one class in one file, which the objective only loops over."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pixelgen.encoders import PatchEncoder

if TYPE_CHECKING:
    from pixelgen.models import Denoiser


@dataclass
class Prediction:
    """One training batch, corrupted and predicted, or the samples of it that passed the noise gate.

    Args:
        x: clean images (B, C, H, W) in [-1, 1].
        x_t: noisy images.
        t: times (B,); on the CPU, so that the gate needs no synchronisation with the device.
        x_hat: predicted clean images.
        hidden: patch tokens (B, N, D) entering the block that a term asks for, or None.
        encoder: the objective's shared encoder, or None.
    """

    x: Tensor
    x_t: Tensor
    t: Tensor
    x_hat: Tensor
    hidden: Tensor | None = None
    encoder: PatchEncoder | None = None

    @cached_property
    def tokens(self) -> Tensor:
        """Encoder tokens (B, N, num_features) of the clean images, computed once, without gradient."""
        assert self.encoder is not None
        with torch.no_grad():
            found: Tensor = self.encoder(self.x)
        return found

    @cached_property
    def predicted_tokens(self) -> Tensor:
        """Encoder tokens (B, N, num_features) of the predicted images, computed once."""
        assert self.encoder is not None
        found: Tensor = self.encoder(self.x_hat)
        return found

    def select(self, index: Tensor, hidden: bool = False) -> "Prediction":
        """The samples with these indices, which are on the CPU as `t` is; their hidden tokens only if asked for."""
        where = index.to(self.x.device)
        kept = None if self.hidden is None or not hidden else self.hidden[where]
        return Prediction(self.x[where], self.x_t[where], self.t[index], self.x_hat[where], kept, self.encoder)


class Term:
    """One term of the objective: `weight` times the mean of `compute`, logged as `loss/<name>`.

    A loss of your own is a subclass (and an `nn.Module` if it has parameters, buffers or a frozen network), given in
    `objective.more`:

    Example:
        class L1(Term):
            name = "l1"

            def compute(self, p):
                return (p.x_hat - p.x).abs().flatten(1).mean(1)
    """

    name: str = "term"
    weight: float = 1.0
    gated: bool = False  # whether it sees only the samples that pass the noise gate
    perceptual: bool = False  # whether the adaptive weight multiplies it
    uses_encoder: bool = False  # whether it looks at `p.tokens` of the objective's shared encoder
    layer: int | None = None  # the block whose incoming patch tokens it wants as `p.hidden`

    def compute(self, p: Prediction) -> Tensor:
        """One value for each sample (B,), or their mean, unweighted."""
        raise NotImplementedError

    def connect(self, denoiser: "Denoiser", encoder: PatchEncoder | None) -> None:
        """Fit the term to a denoiser and the shared encoder, before training; a ValueError says what does not fit."""
