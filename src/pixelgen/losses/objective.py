"""The training objective: named slots for the loss terms, their weights and the noise gate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelgen.encoders import PatchEncoder
from pixelgen.losses.adaptive import AdaptiveWeight
from pixelgen.losses.flow_matching import FlowMatching
from pixelgen.losses.gate import NoiseGate
from pixelgen.losses.lpips import PerceptualLoss
from pixelgen.losses.pdino import PDINO, REPA


@dataclass
class Prediction:
    """One training batch, corrupted and predicted.

    Args:
        x: clean images (B, C, H, W) in [-1, 1].
        x_t: noisy images.
        t: times (B,); on the CPU, so that the gate needs no synchronisation with the device.
        x_hat: predicted clean images.
        hidden: patch tokens (B, N, D) entering the block that REPA aligns, or None.
    """

    x: Tensor
    x_t: Tensor
    t: Tensor
    x_hat: Tensor
    hidden: Tensor | None = None


@dataclass
class Terms:
    """What the objective computed: unweighted scalars by name, their weights, and what is worth logging beside them.

    `perceptual` names the terms that the adaptive weight multiplies.
    """

    values: dict[str, Tensor]
    weights: dict[str, float]
    perceptual: tuple[str, ...]
    passed: float

    def sum(self, *names: str) -> Tensor:
        """Weighted sum of some terms; 0 if none is there."""
        total = next(iter(self.values.values())).new_zeros(())
        for name in names:
            total = total + self.weights[name] * self.values[name]
        return total


class Objective(nn.Module):
    """`fm + 0.5·repa + w·(0.1·lpips + 0.01·pdino)` (PixelGen, arXiv 2602.02493), each term in a slot of its own.

    A slot that is null loads and computes nothing. The gate selects samples before a perceptual network runs; features
    of the clean image are computed once, without gradient, and shared by P-DINO and REPA.

    Args:
        flow_matching: the flow-matching term.
        lpips: perceptual term for local texture, gated; or null.
        pdino: perceptual term for global structure, on the encoder's tokens; or null.
        repa: alignment of hidden states with the encoder's tokens, never gated; or null.
        encoder: frozen network that P-DINO and REPA share; null if both are.
        gate: the noise gate.
        adaptive: adaptive weight of lpips and pdino; null keeps it at 1.

    Raises:
        ValueError: if pdino or repa is on without an encoder, or an encoder is there that nothing uses.
    """

    def __init__(
        self,
        flow_matching: FlowMatching | None = None,
        lpips: PerceptualLoss | None = None,
        pdino: PDINO | None = None,
        repa: REPA | None = None,
        encoder: PatchEncoder | None = None,
        gate: NoiseGate | None = None,
        adaptive: AdaptiveWeight | None = None,
    ) -> None:
        super().__init__()
        used = pdino is not None or repa is not None
        if used and encoder is None:
            raise ValueError("pdino and repa need an encoder: give objective.encoder, or set both to null")
        if encoder is not None and not used:
            raise ValueError("objective.encoder is given, but pdino and repa are null: set the encoder to null too")
        self.flow_matching = flow_matching or FlowMatching()
        self.lpips = lpips
        self.pdino = pdino
        self.repa = repa
        self.encoder = encoder
        self.gate = gate or NoiseGate()
        self.adaptive = adaptive

    @property
    def hidden_layer(self) -> int | None:
        """The block whose incoming tokens the objective wants to see, if any."""
        return None if self.repa is None else self.repa.layer

    def connect(self, hidden_size: int, depth: int, patch_size: int) -> None:
        """Fit the parts to a denoiser of this width, number of blocks and patch size.

        Raises:
            ValueError: if the encoder expects another patch size, or REPA a block that is not there.
        """
        if self.lpips is not None:
            self.lpips.patch_size = patch_size
        expected = getattr(self.encoder, "patch_size", patch_size)
        if expected != patch_size:
            raise ValueError(
                f"objective.encoder.patch_size is {expected}, but the denoiser's is {patch_size}: set both to the same"
            )
        if self.repa is None:
            return
        if not 0 <= self.repa.layer < depth:
            raise ValueError(f"repa.layer is {self.repa.layer}, but the denoiser has blocks 0 to {depth - 1}")
        assert self.encoder is not None
        self.repa.connect(hidden_size, self.encoder.num_features)

    def forward(self, p: Prediction) -> Terms:
        """All terms that are on, unweighted."""
        values = {"flow_matching": self.flow_matching(p.x_hat, p.x, p.x_t, p.t.to(p.x.device))}
        weights = {"flow_matching": 1.0}
        selected = self.gate.select(p.t)
        passed = len(selected) / len(p.t)
        index = None if passed == 1 else selected.to(p.x.device)
        perceptual = []
        if self.lpips is not None:
            values[self.lpips.name] = self._lpips(p, index, bool(passed))
            weights[self.lpips.name] = self.lpips.weight
            perceptual.append(self.lpips.name)
        clean = self._clean_tokens(p, index, bool(passed))
        if self.pdino is not None:
            values[self.pdino.name] = self._pdino(p, clean, index, bool(passed))
            weights[self.pdino.name] = self.pdino.weight
            perceptual.append(self.pdino.name)
        if self.repa is not None:
            assert p.hidden is not None
            assert clean is not None
            values[self.repa.name] = self.repa(p.hidden, clean).mean()
            weights[self.repa.name] = self.repa.weight
        return Terms(values, weights, tuple(perceptual), passed)

    def combine(self, terms: Terms, step: int = 0, last_weight: Tensor | None = None) -> Tensor:
        """Total loss; updates the adaptive weight when it is due at this step."""
        if self.adaptive is None:
            return terms.sum(*terms.values)
        perceptual = terms.sum(*terms.perceptual)
        if last_weight is not None and last_weight.requires_grad and terms.perceptual and self.adaptive.due(step):
            self.adaptive.update(terms.values["flow_matching"], perceptual, last_weight, step)
        others = [name for name in terms.values if name not in terms.perceptual]
        return terms.sum(*others) + self.adaptive.weight * perceptual

    def _lpips(self, p: Prediction, index: Tensor | None, any_passed: bool) -> Tensor:
        assert self.lpips is not None
        if not any_passed:
            return p.x_hat.new_zeros(())
        distances = self.lpips(_pick(p.x_hat, index), _pick(p.x, index))
        return self.gate.mean(distances, len(p.x))

    def _clean_tokens(self, p: Prediction, index: Tensor | None, any_passed: bool) -> Tensor | None:
        """Tokens of the clean images: of all, or only of those that passed if nothing else is looked at."""
        if self.encoder is None:
            return None
        with torch.no_grad():
            if self.repa is not None or (self.pdino is not None and not self.pdino.gated):
                return self.encoder(p.x)
            return self.encoder(_pick(p.x, index)) if any_passed else None

    def _pdino(self, p: Prediction, clean: Tensor | None, index: Tensor | None, any_passed: bool) -> Tensor:
        assert self.pdino is not None
        assert self.encoder is not None
        if not self.pdino.gated:
            return self.pdino(self.encoder(p.x_hat), clean).mean()
        if not any_passed:
            return p.x_hat.new_zeros(())
        target = clean if self.repa is None or clean is None else _pick(clean, index)
        return self.gate.mean(self.pdino(self.encoder(_pick(p.x_hat, index)), target), len(p.x))


def _pick(values: Tensor, index: Tensor | None) -> Tensor:
    """The selected samples; all of them without a copy if `index` is None."""
    return values if index is None else values[index]
