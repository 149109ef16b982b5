"""Published checkpoints: PixelGen's and JiT's files, and the network's size, read from its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelgen.config import build
from pixelgen.models import Denoiser
from pixelgen.models.sizes import _SIZES

Weights = dict[str, Tensor]  # a state dict
QWEN = "Qwen/Qwen3-1.7B"  # the text encoder of the published text model


@dataclass(frozen=True)
class Recipe:
    """How the authors sample, which the weights do not tell.

    Args:
        shift: time shift of their 50 steps of Heun.
        noise_scale: standard deviation of the noise; None for JiT's rule, input size / 256 and at least 1.
    """

    shift: float = 1.0
    noise_scale: float | None = None


@dataclass(frozen=True)
class Contents:
    """What a file of weights holds.

    Args:
        raw: raw weights of the denoiser; empty if they are not there.
        averages: EMAs of the denoiser by name; those of training hold what trains alone.
        objective: weights of the objective.
        step: optimizer step, if known.
        ema_step: optimizer step of the last update of the EMAs, if known.
        recipe: of a published checkpoint, whose EMAs are whole; None for ours.
    """

    raw: Weights
    averages: dict[str, Weights]
    objective: Weights = field(default_factory=dict)
    step: int | None = None
    ema_step: int | None = None
    recipe: Recipe | None = None


# Files


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


def below(prefix: str, state: Weights) -> Weights:
    """The entries under a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


# Networks


def architecture(weights: Weights, in_context_start: int | None = None) -> dict[str, Any]:
    """Arguments of the `JiT` that these weights are of: what the shapes tell, the rest from the published sizes.

    Args:
        weights: state dict; the meta device will do.
        in_context_start: block before which the class tokens enter; None for that of the published size with the same
            depth and width. Shapes do not tell it, nor dropout, which is that of the published size, or none.

    Raises:
        ValueError: if the network is not a JiT, or no published size while its class tokens need `in_context_start`.
    """
    _, tokens, hidden_size = _shape(weights, "pos_embed", 3)
    first, in_channels, patch_size, _ = _shape(weights, "x_embedder.proj1.weight", 4)
    (head_dim,) = _shape(weights, "blocks.0.attn.q_norm.weight", 1)
    _, feed_forward = _shape(weights, "blocks.0.mlp.w3.weight", 2)
    conditional = "y_embedder.embedding_table.weight" in weights
    found = {
        "input_size": isqrt(tokens) * patch_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "hidden_size": hidden_size,
        "depth": _count(weights, "blocks."),
        "num_heads": hidden_size // head_dim,
        "mlp_ratio": _mlp_ratio(hidden_size, feed_forward),
        "num_classes": _shape(weights, "y_embedder.embedding_table.weight", 2)[0] - 1 if conditional else None,
        "bottleneck_dim": first if "x_embedder.proj2.weight" in weights else None,
        "in_context_len": _shape(weights, "in_context_posemb", 3)[1] if "in_context_posemb" in weights else 0,
    }
    return found | _unseen(found, in_context_start)


def _unseen(found: dict[str, Any], in_context_start: int | None) -> dict[str, Any]:
    """The arguments that leave no trace in the weights."""
    depth, hidden_size = found["depth"], found["hidden_size"]
    start, proj_drop = {size[:2]: size[4:] for size in _SIZES.values()}.get((depth, hidden_size), (None, 0.0))
    if not found["in_context_len"]:
        return {"proj_drop": proj_drop}
    start = start if in_context_start is None else in_context_start
    if start is None:
        raise ValueError(
            f"no published size has {depth} blocks of width {hidden_size}, so nothing tells where its class tokens "
            "enter: convert it with python -m pixelgen.convert and give --in_context_start"
        )
    return {"in_context_start": start, "proj_drop": proj_drop}


def _shape(weights: Weights, key: str, dimensions: int) -> tuple[int, ...]:
    if key not in weights or weights[key].ndim != dimensions:
        found = f"its {key} is {tuple(weights[key].shape)}" if key in weights else f"it has no {key}"
        raise ValueError(f"the network is not a class-conditional transformer (JiT): {found}")
    return tuple(weights[key].shape)


def _mlp_ratio(hidden_size: int, feed_forward: int) -> float:
    """A ratio for which the two halves of SwiGLU are this wide: 4, one digit after the point, or what is needed."""
    ratios = (4.0, round(1.5 * feed_forward / hidden_size, 1), (1.5 * feed_forward + 0.75) / hidden_size)
    return next(ratio for ratio in ratios if int(int(hidden_size * ratio) * 2 / 3) == feed_forward)


def _is_text(weights: Weights) -> bool:
    return "y_pos_embedding" in weights


def text_architecture(weights: Weights) -> dict[str, Any]:
    """Arguments of the `TextJiT` that these weights are of; the shapes tell all of them, for images of 3 channels.

    Raises:
        ValueError: if a weight is missing or has another number of dimensions.
    """
    _, tokens, hidden_size = _shape(weights, "pos_embed", 3)
    bottleneck_dim, patch = _shape(weights, "x_embedder.proj1.weight", 2)
    (head_dim,) = _shape(weights, "blocks.0.attn.q_norm.weight", 1)
    patch_size = isqrt(patch // 3)
    return {
        "input_size": isqrt(tokens) * patch_size,
        "patch_size": patch_size,
        "in_channels": 3,
        "hidden_size": hidden_size,
        "depth": _count(weights, "blocks."),
        "num_heads": hidden_size // head_dim,
        "text_depth": _count(weights, "text_refine_blocks."),
        "text_dim": _shape(weights, "y_embedder.proj.weight", 2)[1],
        "text_length": _shape(weights, "y_pos_embedding", 3)[1],
        "bottleneck_dim": bottleneck_dim,
    }


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
    """Refuse weights that do not fit a denoiser; `path` is where they came from, for the message.

    Raises:
        ValueError: naming the first entries that are missing, unexpected or of another shape.
    """
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

    A network that takes text is sampled with their guidance, others without.

    Args:
        weights: state dict.
        recipe: of its authors.
        in_context_start: as for `architecture`, whose errors are those of this.
        text_encoder: folder or repository of the encoder of a network that takes text; None for the published one.
    """
    if _is_text(weights):
        text = text_architecture(weights)
        encoder = {"model": text_encoder or QWEN, "max_length": text["text_length"]}
        arguments: dict[str, Any] = {
            "denoiser": {"class_path": "pixelgen.models.TextJiT", "init_args": text},
            "text_encoder": {"class_path": "pixelgen.encoders.TextEncoder", "init_args": encoder},
            "sampler": {
                "class_path": "pixelgen.flow.AdamsBashforth",
                "init_args": {"num_steps": 25, "shift": 3.0, "guidance": 4.0},
            },
        }
        return {"class_path": "pixelgen.PixelGen", "init_args": arguments}
    size = architecture(weights, in_context_start)
    noise_scale = max(1.0, size["input_size"] / 256) if recipe.noise_scale is None else float(recipe.noise_scale)
    arguments = {
        "denoiser": {"class_path": "pixelgen.models.JiT", "init_args": size},
        "sampler": {"class_path": "pixelgen.flow.Heun", "init_args": {"num_steps": 50, "shift": recipe.shift}},
        "noise_scale": noise_scale,
    }
    return {"class_path": "pixelgen.PixelGen", "init_args": arguments}
