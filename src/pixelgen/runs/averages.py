"""Power-function averages of any width, put together after training from those that checkpoints hold.

Karras et al. 2024 (arXiv:2312.02696), section 3. An average of relative width σ, taken at optimizer step t, weighs the
weights of step τ by `p(τ) = (γ+1) τ^γ / t^(γ+1)`. The profile of an average that nobody stored is fitted, by least
squares, by the profiles of those that were, and the same mixture of them is the average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from pixelgen.module import PixelGen
from pixelgen.runs.profiles import power_function_gamma
from pixelgen.runs.published import Weights, fill_denoiser
from pixelgen.runs.run import average_name, denoiser_weights, load, read_checkpoint
from pixelgen.runs.sources import PREFIX, Source, width_of
from pixelgen.samples.sampling import Average

POOR = 0.1  # relative error of a profile above which a reconstruction is doubted


@dataclass(frozen=True)
class Profile:
    """Which weights an average is made of.

    Args:
        step: optimizer step at which it was taken.
        width: relative width σ.
    """

    step: int
    width: float

    def dot(self, other: Profile) -> float:
        """Integral of the product of two profiles over all steps."""
        early, late = sorted((self, other), key=lambda profile: profile.step)
        a, b = power_function_gamma(early.width), power_function_gamma(late.width)
        return (a + 1) * (b + 1) / (a + b + 1) * (early.step / late.step) ** b / late.step


def mixture(stored: Sequence[Profile], wanted: Profile) -> tuple[NDArray[np.float64], float]:
    """Shares of the stored averages, which sum to 1, and the relative error (L2) of the profile that they make."""
    scale = wanted.step  # of order 1 whatever the number of steps
    products = scale * np.array([[a.dot(b) for b in stored] for a in stored])
    target = scale * np.array([a.dot(wanted) for a in stored])
    ones = np.ones((len(stored), 1))
    system = np.block([[products, ones], [ones.T, np.zeros((1, 1))]])  # of Lagrange, for the sum
    shares = np.linalg.lstsq(system, np.append(target, 1.0), rcond=1e-13)[0][:-1]
    norm = scale * wanted.dot(wanted)
    error = norm - 2 * shares @ target + shares @ products @ shares
    return shares, float(np.sqrt(max(0.0, error) / norm))


def reconstruct(source: Source, width: float) -> Weights:
    """State dict of the denoiser's average of a width, as of the step of the source.

    Args:
        source: a run or a checkpoint in one; what the run stored up to its step is mixed.
        width: relative width, between 0 and 0.28.

    Raises:
        ValueError: if the run stores no averages by width, or this cannot be a width.
    """
    check_average(source, f"{PREFIX}{width}")
    stored = _stored(source.checkpoint)
    wanted = Profile(max(profile.step for profile in stored), width)
    for file in sorted((source.home / "checkpoints").glob("step_*.ckpt")):
        stored |= {p: weights for p, weights in _stored(read_checkpoint(file)).items() if p.step <= wanted.step}
    shares, error = mixture([*stored], wanted)
    if error > POOR:
        rank_zero_warn(
            f"{len(stored)} stored averages make {PREFIX}{width} with an error of {error:.0%} of its profile: keep "
            "more checkpoints, or widths nearer to it"
        )
    mixed = {
        key: torch.stack([s * weights[key].double() for s, weights in zip(shares, stored.values(), strict=True)]).sum(0)
        for key in next(iter(stored.values()))
    }
    others = denoiser_weights(source.checkpoint, next(iter(source.averages)))  # what does not train
    return others | {key: value.float() for key, value in mixed.items()}


def check_average(source: Source, ema: Average) -> None:
    """Refuse averages that are not there and cannot be made.

    Raises:
        ValueError: saying which there are, or what to train with.
    """
    width = width_of(ema)
    if width is None or ema in source.averages:
        average_name(source.checkpoint, ema)
    elif not 0 < width < 0.28:
        raise ValueError(f"{ema} is no average: relative widths lie between 0 and 0.28")
    elif not _stored(source.checkpoint):
        raise ValueError(
            f"{source.path} holds no averages by width to make {ema} of: train with --callbacks.ema.widths [0.05,0.1] "
            "and --callbacks.checkpoint.keep_last null"
        )


def average_weights(source: Source, ema: Average) -> Weights:
    """State dict of the denoiser for any average that `pixelgen.load` knows, and widths that nobody stored."""
    width = width_of(ema)
    if width is None or ema in source.averages:
        return denoiser_weights(source.checkpoint, ema)
    return reconstruct(source, width)


def load_average(source: Source, ema: Average, device: str | torch.device | None = None) -> PixelGen:
    """What `pixelgen.load` gives, with any of `average_weights`."""
    if width_of(ema) is None or ema in source.averages:
        return load(source.path, ema, device)
    weights = average_weights(source, ema)
    model = load(source.path, True, device)
    fill_denoiser(model.denoiser, weights, source.path)
    return model


def _stored(checkpoint: dict[str, Any]) -> dict[Profile, Weights]:
    """Averages by width in a checkpoint of training; exports do not tell their step."""
    state = checkpoint.get("callbacks", {}).get("EMA", {})
    averages: dict[str, Weights] = state.get("averages", {})
    widths = {name: width_of(name) for name in averages if state.get("step")}
    return {Profile(state["step"], width): averages[name] for name, width in widths.items() if width is not None}
