"""The training objective: a sum of weighted terms, some of which see only samples that pass the noise gate."""

from dataclasses import dataclass, replace
from itertools import chain, count

from torch import Tensor, nn

from pixelgen.checks import checked
from pixelgen.encoders import PatchEncoder
from pixelgen.flow import TimeSampler
from pixelgen.losses.adaptive import AdaptiveWeight
from pixelgen.losses.flow_matching import FlowMatching
from pixelgen.losses.gate import Gate, NoiseGate
from pixelgen.losses.lpips import PerceptualLoss
from pixelgen.losses.pdino import PDINO
from pixelgen.losses.repa import REPA
from pixelgen.losses.term import Prediction, Term
from pixelgen.models import Denoiser


@dataclass
class Terms:
    """What the objective computed for a batch.

    Args:
        values: unweighted scalars by name.
        weights: weight of each.
        perceptual: names of those that the adaptive weight multiplies.
        passed: share of samples that passed the gate.
        active: whether any perceptual term saw a sample.
    """

    values: dict[str, Tensor]
    weights: dict[str, float]
    perceptual: tuple[str, ...]
    passed: float = 1.0
    active: bool = True

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
        flow_matching: the flow-matching term; it cannot be null.
        lpips: perceptual term for local texture, gated; or null.
        pdino: perceptual term for global structure, on the encoder's tokens; or null.
        repa: alignment of hidden states with the encoder's tokens, never gated; or null.
        encoder: frozen network that P-DINO and REPA share; null if both are.
        gate: the noise gate; null lets every sample pass.
        adaptive: adaptive weight of the perceptual terms; null keeps it at 1.
        more: terms of your own, by class path; null for none.

    Raises:
        ValueError: if a weight is not above 0, or an encoder is missing where a term needs it, or given for no term.
    """

    @checked()
    def __init__(
        self,
        flow_matching: FlowMatching = FlowMatching(),
        lpips: PerceptualLoss | None = None,
        pdino: PDINO | None = None,
        repa: REPA | None = None,
        encoder: PatchEncoder | None = None,
        gate: Gate | None = NoiseGate(),
        adaptive: AdaptiveWeight | None = None,
        more: list[Term] | None = None,
    ) -> None:
        super().__init__()
        self.flow_matching, self.lpips, self.pdino, self.repa = flow_matching, lpips, pdino, repa
        self.encoder, self.gate, self.adaptive = encoder, gate, adaptive
        self._more = list(more or ())
        self.more = nn.ModuleList(term for term in self._more if isinstance(term, nn.Module))
        self.expected: float | None = None  # share of samples that sums over those that pass are divided by
        self._check()

    def _check(self) -> None:
        used = [name for name, term in self.terms.items() if term.uses_encoder]
        if used and self.encoder is None:
            raise ValueError(f"{' and '.join(used)} need an encoder: give objective.encoder, or set them to null")
        if self.encoder is not None and not used:
            raise ValueError("objective.encoder is given, but pdino and repa are null: set the encoder to null too")
        slots = {"lpips": self.lpips, "pdino": self.pdino, "repa": self.repa}
        for slot, term in [*slots.items(), *(("more", term) for term in self._more)]:
            if term is not None and not term.weight > 0:
                fix = "leave the term out" if slot == "more" else f"set objective.{slot} to null to switch it off"
                raise ValueError(
                    f"objective.{slot} has a term {term.name!r} of weight {term.weight}: give one above 0, or {fix}"
                )
        if len({term.layer for term in self.terms.values() if term.layer is not None}) > 1:
            raise ValueError("terms of the objective ask for hidden states of different layers: give one layer to all")

    @property
    def terms(self) -> dict[str, Term]:
        """The terms that are on, by name; a number is appended to a name that is taken."""
        named: dict[str, Term] = {}
        for term in (self.flow_matching, self.lpips, self.pdino, self.repa, *self._more):
            if term is not None:
                numbered = (f"{term.name}_{number}" for number in count(2))
                named[next(name for name in chain([term.name], numbered) if name not in named)] = term
        return named

    @property
    def hidden_layer(self) -> int | None:
        """The block whose incoming tokens a term wants to see, if any."""
        return next((term.layer for term in self.terms.values() if term.layer is not None), None)

    def connect(self, denoiser: Denoiser, time: TimeSampler) -> None:
        """Fit the terms to a denoiser, and the gate to the training times; a ValueError says what does not fit."""
        expected = getattr(self.encoder, "patch_size", denoiser.patch_size)
        if expected != denoiser.patch_size:
            raise ValueError(
                f"objective.encoder.patch_size is {expected}, but the denoiser's is {denoiser.patch_size}: set both to "
                "the same"
            )
        for term in self.terms.values():
            term.connect(denoiser, self.encoder)
        self.expected = None if self.gate is None else self.gate.expected(time)
        if self.hidden_layer is not None:
            denoiser.require("a term with a layer", "forward_with_features")
        if self.adaptive is not None:
            denoiser.require("objective.adaptive", "last_layer")

    def forward(self, p: Prediction) -> Terms:
        """All terms that are on, unweighted."""
        whole, terms = replace(p, encoder=self.encoder), self.terms
        selected = None if self.gate is None else self.gate.select(p.t)
        passed = 1.0 if selected is None else len(selected) / len(p.t)
        gated = any(term.gated for term in terms.values())
        kept = whole if selected is None or passed == 1 or not gated else self._select(whole, selected)
        values = {name: self._mean(term, kept if term.gated else whole, len(p.t)) for name, term in terms.items()}
        perceptual = tuple(name for name, term in terms.items() if term.perceptual)
        active = passed > 0 or any(not terms[name].gated for name in perceptual)
        return Terms(values, {name: term.weight for name, term in terms.items()}, perceptual, passed, active)

    def _select(self, whole: Prediction, selected: Tensor) -> Prediction:
        """What gated terms see; the tokens of clean images are taken from those of all where these are needed too."""
        terms = self.terms.values()
        kept = whole.select(selected, hidden=any(term.gated and term.layer is not None for term in terms))
        if {term.gated for term in terms if term.uses_encoder} == {True, False}:
            kept.tokens = whole.tokens[selected.to(whole.x.device)]
        return kept

    def _mean(self, term: Term, view: Prediction, batch_size: int) -> Tensor:
        if not len(view.x):  # nothing passed: a zero that every process can take a gradient of
            return 0 * view.x_hat.float().sum()
        values = term.compute(view)
        if term.gated and self.expected is not None:
            return values.sum() / (batch_size * self.expected)
        return values.mean()

    def combine(self, terms: Terms, step: int = 0, last_weight: Tensor | None = None) -> Tensor:
        """Total loss; updates the adaptive weight when it is due at this step."""
        if self.adaptive is None:
            return terms.sum(*terms.values)
        perceptual = terms.sum(*terms.perceptual)
        if last_weight is not None and last_weight.requires_grad and terms.perceptual and self.adaptive.due(step):
            self.adaptive.update(terms.values["flow_matching"], perceptual, last_weight, step, terms.active)
        others = [name for name in terms.values if name not in terms.perceptual]
        return terms.sum(*others) + self.adaptive.weight * perceptual
