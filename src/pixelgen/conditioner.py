"""What images are made from, as users and batches give it, and as the network takes it: labels or text states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pixelgen.data import ImageData
from pixelgen.encoders.text import TextEncoder
from pixelgen.flow import Sampler
from pixelgen.models import Denoiser

Condition = Tensor | Sequence[int] | Sequence[str] | int | str | None


def check_text(denoiser: Denoiser, text_encoder: TextEncoder | None) -> None:
    """Refuse a text encoder that does not fit the denoiser.

    Raises:
        ValueError: naming what differs.
    """
    if text_encoder is None:
        return
    if denoiser.text_shape is None:
        raise ValueError(f"{type(denoiser).__name__} takes no prompts: leave text_encoder out, or choose TextJiT")
    length, width = denoiser.text_shape
    if (text_encoder.max_length, text_encoder.width) != (length, width):
        raise ValueError(
            f"the text encoder gives {text_encoder.max_length} states of width {text_encoder.width}, but the denoiser "
            f"is built for {length} of width {width}: set text_length and the encoder's max_length to one number, "
            f"and text_dim to {text_encoder.width}"
        )
    if text_encoder.zero_padding != denoiser.mask_padding:
        raise ValueError(
            f"the denoiser's mask_padding is {denoiser.mask_padding}, but the text encoder's zero_padding is "
            f"{text_encoder.zero_padding}: padding is masked with both, and looked at, as released, with neither"
        )


def check_captions(denoiser: Denoiser, text_encoder: TextEncoder | None, data: ImageData) -> None:
    """Refuse data, already set up, without what a denoiser that takes text needs, or with states of other encoders.

    Raises:
        ValueError: naming what is missing or differs.
    """
    if denoiser.text_shape is None:
        return
    if not data.captions:
        raise ValueError(
            f"{type(denoiser).__name__} learns from captions, but the data has none: choose data with captions "
            "(for ShapesData, data.captions true; for others, data.captions Captions), or JiT for images without text"
        )
    if text_encoder is None:
        raise ValueError(f"{type(denoiser).__name__} takes prompts: give the model a text_encoder")
    if data.text_shape not in (None, denoiser.text_shape):
        found, own = ("{} text states of width {}".format(*shape) for shape in (data.text_shape, denoiser.text_shape))
        raise ValueError(
            f"the shards hold {found}, but the denoiser is built for {own}: encode the shards anew with the model's "
            "text_encoder (python -m pixelgen.encode)"
        )
    for settings in data.text_settings:
        for name in ("max_length", "width", "zero_padding", "weights"):
            made, given = settings.get(name), text_encoder.settings[name]
            if made != given and _kind(made) == _kind(given):
                raise ValueError(
                    f"the text states in the shards were made by {settings.get('model')} with {name} {made}, but the "
                    f"model's text_encoder has {given}: give it the same, or encode the shards anew"
                )


def _kind(value: object) -> str:
    """Whether weights are named by a hash of a folder or a commit on the hub; these cannot be compared."""
    return str(value).partition(":")[0] if ":" in str(value) else ""


def encode(text_encoder: TextEncoder | None, prompts: Sequence[str], device: torch.device) -> Tensor:
    """Text states (B, L, E) of prompts, on a device.

    Raises:
        ValueError: if there is no text encoder.
    """
    if text_encoder is None:
        raise ValueError("prompts need a text encoder, which this model has not: give it one as `text_encoder`")
    states: Tensor = text_encoder(prompts)
    return states.to(device)


# Training


def condition_of(
    denoiser: Denoiser, text_encoder: TextEncoder | None, batch: dict[str, Any], drop: Tensor | None
) -> Tensor | None:
    """Labels (B,) or text states (B, L, E) of a batch; the null condition where `drop` (B,), on the CPU, is true.

    Raises:
        ValueError: if the network takes text, and the batch has neither `caption` nor `text`.
    """
    if denoiser.text_shape is not None:
        return _text_of(denoiser, text_encoder, batch, drop)
    condition: Tensor | None = batch.get("label")
    if condition is None or denoiser.num_classes is None:
        return None
    return (
        condition if drop is None else denoiser.drop_condition(condition, drop.to(condition.device, non_blocking=True))
    )


def _text_of(
    denoiser: Denoiser, text_encoder: TextEncoder | None, batch: dict[str, Any], drop: Tensor | None
) -> Tensor | None:
    device = batch["image"].device
    if "text" not in batch and "caption" not in batch:
        raise ValueError("a network that takes text needs batches with `caption` (prompts) or `text` (their states)")
    states = batch["text"] if "text" in batch else encode(text_encoder, batch["caption"], device)
    if drop is None:
        return states
    if text_encoder is None:
        raise ValueError("dropping prompts needs the states of the empty one: give the model a text_encoder")
    null = text_encoder.empty.to(states).expand_as(states)
    return denoiser.drop_condition(states, drop.to(device, non_blocking=True), null)


# Sampling


def requests(
    denoiser: Denoiser, condition: Condition, seeds: Sequence[int] | int, device: torch.device
) -> tuple[Tensor | list[str] | None, list[int]]:
    """Labels (N,) or text states (N, L, E) on the device, or prompts, or None; and one seed per image.

    Raises:
        ValueError: if the network takes other conditions, or there are not as many seeds as conditions.
    """
    number = 1 if isinstance(seeds, int) else len(seeds)
    if denoiser.text_shape is None and denoiser.num_classes is None:
        if condition is not None:
            raise ValueError("this network is unconditional: give seeds alone, one for each image")
        return None, [seeds] if isinstance(seeds, int) else list(seeds)
    wanted: Tensor | list[str]
    if denoiser.num_classes is not None:
        wanted = _labels(condition, denoiser.num_classes, device)
    else:
        wanted = _prompts(condition, device)
    if isinstance(wanted, Tensor) and wanted.ndim in (0, 2):
        wanted = wanted.expand(number, *wanted.shape)
    elif isinstance(condition, str):
        wanted = [condition] * number
    if isinstance(seeds, int):
        seeds = range(seeds, seeds + len(wanted))
    if len(seeds) != len(wanted):
        raise ValueError(f"there are {len(wanted)} conditions but {len(seeds)} seeds: give one seed for each")
    return wanted, list(seeds)


def _labels(condition: Condition, classes: int, device: torch.device) -> Tensor:
    if condition is None:
        raise ValueError(f"give the class of each image, 0 to {classes - 1} (or {classes} for no class)")
    try:
        labels = torch.as_tensor(condition, dtype=torch.long, device=device)
    except (TypeError, ValueError) as error:
        raise ValueError(f"conditions are class numbers, 0 to {classes - 1}, not {condition!r}") from error
    if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) > classes:
        raise ValueError(f"classes must lie between 0 and {classes - 1} (or be {classes} for no class)")
    return labels


def _prompts(condition: Condition, device: torch.device) -> Tensor | list[str]:
    if isinstance(condition, Tensor) and condition.is_floating_point():
        return condition.to(device)
    prompts = [condition] if isinstance(condition, str) else condition
    if not isinstance(prompts, Sequence) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"this network takes prompts, such as ['a red circle'], not {condition!r}")
    return [str(prompt) for prompt in prompts]


def check_negative(denoiser: Denoiser, sampler: Sampler, negative: str) -> None:
    """Refuse a negative prompt that could do nothing.

    Raises:
        ValueError: if the network takes no prompts, or there is no guidance.
    """
    if negative and denoiser.text_shape is None:
        raise ValueError("this network does not take prompts, so there is no negative one: leave it out")
    if negative and sampler.guidance.scale == 1:
        raise ValueError("a negative prompt does nothing without guidance: give a sampler with guidance above 1")


def null_condition(
    denoiser: Denoiser, text_encoder: TextEncoder | None, sampler: Sampler, negative: str, device: torch.device
) -> Tensor | None:
    """What guidance leads away from: states (1, L, E) of the empty or the negative prompt; None for other networks.

    Raises:
        ValueError: for a negative prompt that could do nothing.
    """
    check_negative(denoiser, sampler, negative)
    if denoiser.text_shape is None or sampler.guidance.scale == 1:
        return None
    if negative or text_encoder is None:
        return encode(text_encoder, [negative], device)
    return text_encoder.empty.to(device)[None]
