"""Published checkpoints: PixelGen's and JiT's files, and the network's size, read from its weights."""

from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelgen.config import build
from pixelgen.models import Denoiser
from pixelgen.models.sizes import SIZES

Weights = dict[str, Tensor]  # a state dict
TABLE = "y_embedder.embedding_table.weight"  # a row for each class, and one for none
QWEN = "Qwen/Qwen3-1.7B"  # the text encoder of the published text model


@dataclass(frozen=True)
class Recipe:
    """How the authors sample, which the weights do not tell."""

    shift: float = 1.0  # of the times of their 50 steps of Heun
    noise_scale: float | None = None  # None for JiT's rule: input size / 256, and at least 1


@dataclass(frozen=True)
class Contents:
    """What a file of weights holds."""

    raw: Weights  # of the denoiser; empty if they are not there
    averages: dict[str, Weights]  # EMAs of the denoiser by name; those of training hold what trains alone
    objective: Weights = field(default_factory=dict)
    step: int | None = None  # of the optimizer, if known
    ema_step: int | None = None  # step of the last update of the EMAs, if known
    recipe: Recipe | None = None  # of a published checkpoint, whose EMAs are whole; None for ours
    class_names: list[str] | None = None  # in the order of their numbers, if known


def convert_keys(checkpoint: dict[str, Any]) -> Contents | None:
    """Contents of a published checkpoint of PixelGen or JiT, with the names of ours; None for any other.

    PixelGen's EMA is named `ema`, JiT's `ema1` and `ema2`. Optimizers and callbacks are left behind.
    """
    state = checkpoint.get("state_dict")
    if state is None:
        return _convert_jit(checkpoint)
    if not any(key.startswith(("ema_denoiser.", "diffusion_trainer.")) for key in state):
        return None
    projector = {f"repa.proj.{key}": value for key, value in below("diffusion_trainer.proj.", state).items()}
    average = below("ema_denoiser.", state)
    averages = {"ema": average} if average else {}
    step, recipe = checkpoint.get("global_step"), Recipe(shift=2.0, noise_scale=1.0)
    return Contents(below("denoiser.", state), averages, projector, step, recipe=recipe)


def _convert_jit(checkpoint: dict[str, Any]) -> Contents | None:
    """JiT's layout: `model`, `model_ema1` and `model_ema2`, each with names that start with `net.`."""
    keys = {"raw": "model", "ema1": "model_ema1", "ema2": "model_ema2"}
    states = {name: checkpoint[key] for name, key in keys.items() if isinstance(checkpoint.get(key), dict)}
    averages = {name: weights for name, state in states.items() if (weights := below("net.", state))}
    raw = averages.pop("raw", {})
    if not raw and not averages:
        return None
    return Contents(raw, averages, recipe=Recipe(noise_scale=getattr(checkpoint.get("args"), "noise_scale", None)))


def plain_keys(state: Any) -> Any:
    """A state dict without the `module.` in front of all names and the `_orig_mod.` in them; the same if it is none."""
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        return state
    wrapped = "module." if state and all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(wrapped).replace("_orig_mod.", ""): value for key, value in state.items()}


def below(prefix: str, state: Weights) -> Weights:
    """The entries under a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def architecture(weights: Weights, in_context_start: int | None = None) -> dict[str, Any]:
    """Arguments of the `JiT` or, of images of 3 channels, the `TextJiT` that these weights (or their shapes) are of.

    Shapes do not tell before which block class tokens enter, nor dropout: both are those of the published size of the
    same depth and width. Of any other size dropout is 0, and `in_context_start` must be given.

    Raises:
        ValueError: if the network is neither, or is no published size while its class tokens need `in_context_start`.
    """
    if in_context_start is not None and "in_context_posemb" not in weights:
        raise ValueError(f"in_context_start is {in_context_start}, but the network has no class tokens: leave it out")
    is_text = "y_pos_embedding" in weights
    _, tokens, hidden_size = _shape(weights, "pos_embed", 3)
    first, *patch = _shape(weights, "x_embedder.proj1.weight", 2 if is_text else 4)
    in_channels, patch_size = (3, isqrt(patch[0] // 3)) if is_text else patch[:2]
    (head_dim,) = _shape(weights, "blocks.0.attn.q_norm.weight", 1)
    found: dict[str, Any] = {
        "input_size": isqrt(tokens) * patch_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "hidden_size": hidden_size,
        "depth": _count(weights, "blocks."),
        "num_heads": hidden_size // head_dim,
    }
    if is_text:
        return found | {
            "text_depth": _count(weights, "text_refine_blocks."),
            "text_dim": _shape(weights, "y_embedder.proj.weight", 2)[1],
            "text_length": _shape(weights, "y_pos_embedding", 3)[1],
            "bottleneck_dim": first,
        }
    context = _shape(weights, "in_context_posemb", 3)[1] if "in_context_posemb" in weights else 0
    found |= {
        "mlp_ratio": _mlp_ratio(hidden_size, _shape(weights, "blocks.0.mlp.w3.weight", 2)[1]),
        "num_classes": _shape(weights, TABLE, 2)[0] - 1 if TABLE in weights else None,
        "bottleneck_dim": first if "x_embedder.proj2.weight" in weights else None,
        "in_context_len": context,
    }
    shape = (found["depth"], hidden_size)
    size = next((size for size in SIZES.values() if (size["depth"], size["hidden_size"]) == shape), {})
    start = size.get("in_context_start") if in_context_start is None else in_context_start
    if context and start is None:
        raise ValueError(
            f"no published size has {found['depth']} blocks of width {hidden_size}, so nothing tells where its class "
            "tokens enter: convert it with python -m pixelgen.convert and give --in_context_start"
        )
    return found | ({"in_context_start": start} if context else {}) | {"proj_drop": size.get("proj_drop", 0.0)}


def _shape(weights: Weights, key: str, dimensions: int) -> tuple[int, ...]:
    if key not in weights or weights[key].ndim != dimensions:
        found = f"its {key} is {tuple(weights[key].shape)}" if key in weights else f"it has no {key}"
        raise ValueError(f"the network is not a class-conditional transformer (JiT): {found}")
    return tuple(weights[key].shape)


def _mlp_ratio(hidden_size: int, feed_forward: int) -> float:
    """A ratio for which the two halves of SwiGLU are this wide: 4, one digit after the point, or what is needed."""
    ratios = (4.0, round(1.5 * feed_forward / hidden_size, 1), (1.5 * feed_forward + 0.75) / hidden_size)
    return next(ratio for ratio in ratios if int(int(hidden_size * ratio) * 2 / 3) == feed_forward)


def _count(weights: Weights, prefix: str) -> int:
    """Number of blocks under a prefix."""
    return len({key.split(".")[1] for key in weights if key.startswith(prefix)})


def denoiser_of(config: dict[str, Any], weights: Weights, path: Path) -> Denoiser:
    """The network of a `model_config`, filled with its weights; float32, on the CPU. Nothing is drawn at random.

    `path` and errors are those of `refuse_other_weights`.
    """
    with torch.device("meta"):
        denoiser: Denoiser = build(Denoiser, config["init_args"]["denoiser"], "denoiser")
    denoiser.to_empty(device="cpu")
    load_weights(denoiser, weights, path)
    return denoiser


def load_weights(denoiser: Denoiser, weights: Weights, path: Path) -> None:
    """Copy weights into a denoiser; `path` and errors are those of `refuse_other_weights`."""
    refuse_other_weights(denoiser, weights, path)
    if not any(value.is_meta for value in denoiser.state_dict().values()):  # else rank 0 hands them on
        denoiser.load_state_dict(weights)


def refuse_other_weights(denoiser: Denoiser, weights: Weights, path: Path) -> None:
    """Refuse weights that do not fit a denoiser, naming the first three entries that differ, and their `path`."""
    own = denoiser.state_dict()
    problems = [f"{key} is missing" for key in own if key not in weights]
    problems += [f"{key} is unexpected" for key in weights if key not in own]
    problems += [
        f"{key} is {tuple(value.shape)} there, {tuple(own[key].shape)} here"
        for key, value in weights.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"the weights in {path} are of another network: {'; '.join(problems[:3])}{more}")


def model_config(
    weights: Weights, recipe: Recipe, in_context_start: int | None = None, text_encoder: str | None = None
) -> dict[str, Any]:
    """The `model` section of a config: the network of these weights, sampled as its authors do.

    A network that takes text is sampled with their guidance, and has their text encoder unless another folder or
    repository is given. `in_context_start` and errors are those of `architecture`.
    """
    size = architecture(weights, in_context_start)
    if "text_length" in size:
        return _part(
            "PixelGen",
            denoiser=_part("models.TextJiT", **size),
            text_encoder=_part("encoders.TextEncoder", model=text_encoder or QWEN, max_length=size["text_length"]),
            sampler=_part("flow.AdamsBashforth", num_steps=25, shift=3.0, guidance=4.0),
        )
    noise_scale = max(1.0, size["input_size"] / 256) if recipe.noise_scale is None else float(recipe.noise_scale)
    sampler = _part("flow.Heun", num_steps=50, shift=recipe.shift)
    return _part("PixelGen", denoiser=_part("models.JiT", **size), sampler=sampler, noise_scale=noise_scale)


def _part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"pixelgen.{name}", "init_args": arguments}
