"""Published checkpoints: PixelGen's and JiT's files in the shape of ours, and the network's size, read from weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelgen.encoders import TextEncoder
from pixelgen.flow import AdamsBashforth, Heun
from pixelgen.models import Denoiser, JiT, TextJiT
from pixelgen.models.sizes import _SIZES
from pixelgen.module import PixelGen

Weights = dict[str, Tensor]  # a state dict of the denoiser
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


# Files


def unreadable(path: Path, error: Exception) -> ValueError:
    """What to tell a user whose checkpoint or export could not be read, `error` being why."""
    if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return ValueError(
            f"{path} holds Python objects that cannot be loaded safely ({unsafe[1]}, …): save its state dicts alone, "
            "once and in a sandbox, as docs/published.md shows"
        )
    return ValueError(f"{path} is not a readable checkpoint or export ({type(error).__name__}: {error})")


def in_our_shape(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A published checkpoint as one of ours, with its `Recipe` as `published`; any other as it is.

    PixelGen's averages are named `ema`, JiT's `ema1` and `ema2`. Optimizers and callbacks are left behind.
    """
    state = checkpoint.get("state_dict")
    if state is None:
        return _from_jit(checkpoint)
    if not any(key.startswith(("ema_denoiser.", "diffusion_trainer.")) for key in state):
        return checkpoint
    weights = {key: value for key, value in state.items() if key.startswith("denoiser.")}
    projector = below("diffusion_trainer.proj.", state)
    weights |= {f"objective.repa.proj.{key}": value for key, value in projector.items()}
    averages = {"ema": below("ema_denoiser.", state)}
    return _ours(weights, averages, checkpoint.get("global_step"), Recipe(shift=2.0, noise_scale=1.0))


def _from_jit(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """JiT's layout in ours: `model`, `model_ema1` and `model_ema2`, each with names that start with `net.`."""
    raw, *averages = (
        below("net.", checkpoint[key]) if isinstance(checkpoint.get(key), dict) else {}
        for key in ("model", "model_ema1", "model_ema2")
    )
    if not any((raw, *averages)):
        return checkpoint
    weights = {f"denoiser.{key}": value for key, value in raw.items()}
    recipe = Recipe(noise_scale=getattr(checkpoint.get("args"), "noise_scale", None))
    return _ours(weights, dict(zip(("ema1", "ema2"), averages, strict=True)), None, recipe)


def _ours(weights: Weights, averages: dict[str, Weights], step: int | None, recipe: Recipe) -> dict[str, Any]:
    averages = {name: average for name, average in averages.items() if average}
    callbacks = {"EMA": {"averages": averages}}
    return {"state_dict": weights, "callbacks": callbacks, "global_step": step, "published": recipe}


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


def is_text(weights: Weights) -> bool:
    """Whether the weights are of a network that takes text."""
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


def denoiser_of(weights: Weights, path: Path, in_context_start: int | None = None) -> Denoiser:
    """The network that these weights are of, filled with them; float32, on the CPU.

    Args:
        weights: state dict.
        path: where they came from, for the message if they do not fit.
        in_context_start: as for `architecture`.

    Raises:
        ValueError: if the network is none of ours, or an entry is missing, unexpected or of another shape.
    """
    text = is_text(weights)
    with torch.device("meta"):
        denoiser = TextJiT(**text_architecture(weights)) if text else JiT(**architecture(weights, in_context_start))
    denoiser.to_empty(device="cpu")
    fill_denoiser(denoiser, weights, path)
    return denoiser


def fill_denoiser(denoiser: Denoiser, weights: Weights, path: Path) -> None:
    """Copy weights into a denoiser; `path` and errors are those of `refuse_other_network`."""
    refuse_other_network(denoiser, weights, path)
    if not any(value.is_meta for value in denoiser.state_dict().values()):  # else rank 0 hands them on
        denoiser.load_state_dict(weights)


def refuse_other_network(denoiser: Denoiser, weights: Weights, path: Path) -> None:
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


# Models


def model_config(
    weights: Weights, recipe: Recipe, in_context_start: int | None = None, text_encoder: str = QWEN
) -> dict[str, Any]:
    """The `model` section of a config: the network of these weights, sampled as its authors do.

    A network that takes text is sampled with their guidance, others without.

    Args:
        weights: state dict.
        recipe: of its authors.
        in_context_start: as for `architecture`, whose errors are those of this.
        text_encoder: folder or repository of the encoder of a network that takes text.
    """
    if is_text(weights):
        text = text_architecture(weights)
        encoder = {"model": text_encoder, "max_length": text["text_length"]}
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


def model_of(weights: Weights, recipe: Recipe, path: Path) -> PixelGen:
    """What `model_config` describes, filled with the weights; `path` and errors are those of `denoiser_of`."""
    arguments = model_config(weights, recipe)["init_args"]
    options = arguments["sampler"]["init_args"]
    denoiser = denoiser_of(weights, path)
    if is_text(weights):
        encoder = TextEncoder(**arguments["text_encoder"]["init_args"])
        return PixelGen(denoiser, sampler=AdamsBashforth(**options), text_encoder=encoder)
    return PixelGen(denoiser, sampler=Heun(**options), noise_scale=arguments["noise_scale"])
