"""What a set of images depends on: `settings.json`, and the name of the folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from pixelgen.conditioner import Unconditional
from pixelgen.encoders.hub import tensors_sha256
from pixelgen.models import Denoiser
from pixelgen.module import PixelGen
from pixelgen.samples.sampling import Sampling

SETTINGS = "settings.json"
TOKENS = 8192  # patches in a network batch: enough to fill a GPU
LARGEST = 32  # images in a network batch


def settings_of(
    model: PixelGen, sampling: Sampling, identity: Mapping[str, Any], requests: Mapping[str, Any], number: int
) -> dict[str, Any]:
    """All that the images of a set depend on (JSON): how they are generated, and with which weights.

    `identity` names the weights that `model` is filled with, as `Run.identity` does; `requests` tells seeds and
    conditions of the `number` images. What does not fit the model is refused: a size that does not divide into patches,
    a negative prompt that could do nothing, random classes where there are none.
    """
    denoiser, sampler = model.denoiser, sampling.sampler or model.sampler
    if sampling.size is not None and any(side < 1 or side % denoiser.patch_size for side in sampling.size):
        raise ValueError(
            f"size {sampling.size[0]} {sampling.size[1]} does not divide into patches: use multiples of "
            f"{denoiser.patch_size}"
        )
    model.conditioner.check_negative(sampler, sampling.negative)
    if sampler.guidance != 1 and not is_guided(model, sampling):
        rank_zero_warn(
            f"guidance {sampler.guidance:g} guides no step: the network takes no conditions, or none of the "
            f"{sampler.num_steps} steps starts between {sampler.guidance_min:g} and {sampler.guidance_max:g}"
        )
    if sampling.random_classes and not model.conditioner.takes_classes:
        raise ValueError("random_classes draws classes, and this network takes none: leave it out")
    return {
        **identity,
        "precision": sampling.precision,
        "compiled": sampling.compile,
        "weights": tensors_sha256(denoiser.state_dict())[:16],
        "sampler": sampler.settings(),
        "noise_scale": model.noise_scale,
        "size": sampling.size or (denoiser.image_size, denoiser.image_size),
        **requests,
        "negative": sampling.negative,
        **model.conditioner.settings,
        "network_batch": network_batch(denoiser, number, sampling.size),
    }


def network_batch(denoiser: Denoiser, number: int, size: tuple[int, int] | None = None) -> int:
    """How many images of a set go through the network at a time: the least power of two that holds a small set.

    It depends on nothing but the number of images and their size (height, width), since matrix products of another
    number of rows round otherwise, which shows in a byte of some hundred thousand.
    """
    height, width = size or (denoiser.image_size, denoiser.image_size)
    most = max(1, min(LARGEST, TOKENS * denoiser.patch_size**2 // (height * width)))
    return min(most, 1 << (number - 1).bit_length())


def network_batch_of(folder: Path) -> int | None:
    """The network batch of the set of images in a folder, if one has begun there."""
    path = folder / SETTINGS
    return _read(path).get("network_batch") if path.exists() else None


def is_guided(model: PixelGen, sampling: Sampling) -> bool:
    """Whether any step is guided: not by a guidance scale of 1, outside of its interval, or without conditions."""
    return (sampling.sampler or model.sampler).guided and not isinstance(model.conditioner, Unconditional)


def folder_name(settings: Mapping[str, Any], guided: bool) -> str:
    """EMA, step and sampler by name, guidance if any step is `guided`, everything else by six digits of a hash."""
    sampler = settings["sampler"]
    parts = [str(settings["average"]), f"step{settings['step']}", f"{sampler['class']}{sampler['num_steps']}"]
    if guided:
        parts.append(f"guidance{sampler['guidance']:g}")
        if (sampler["guidance_min"], sampler["guidance_max"]) != (0, 1):
            parts.append(f"{sampler['guidance_min']:g}to{sampler['guidance_max']:g}")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return "-".join([*parts, digest[:6]])


def refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to make images with other settings than those in a `settings.json`, naming the first that differ."""
    found = _flat(_read(path))
    wanted = _flat(json.loads(json.dumps(settings)))
    differing = [
        f"{key} is {found.get(key)!r}, not {wanted.get(key)!r}"
        for key in dict.fromkeys([*wanted, *found])
        if found.get(key) != wanted.get(key)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(
            f"{path.parent} holds images of other settings ({'; '.join(differing[:3])}{more}): give another folder"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): give another folder") from error


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
