"""From the bytes of a sample to an item of a batch, or the reason why there is none."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelgen.data.captions import Captions, json_fields
from pixelgen.data.images import Item, centre_crop, to_rgb, to_tensor
from pixelgen.data.tars import IMAGES, Sample, SkipCounts


class Unusable(Exception):
    """A sample cannot be used: for a reason out of `SkipCounts.REASONS`, and what exactly is wrong."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass
class Decoder:
    """Makes items: the image centre-cropped, with label, caption or text embeddings as asked for.

    What is random about an item (caption, prefix, flip) depends on the seed, the sample's shard and key, and the pass.
    The arguments are those of `ShardData`; there are no labels without `num_classes`.
    """

    image_size: int
    seed: int = 0
    class_names: Sequence[str] | None = None
    num_classes: int | None = None
    captions: Captions | None = None
    text_states: bool = False
    min_side: int = 0
    flip: bool = False
    text_shape: tuple[int, ...] | None = None  # (L, E) that text embeddings must have, once it is known

    def __call__(self, sample: Sample) -> Item:
        """The item of a sample; `Unusable` if there is none."""
        random = random_of(sample, self.seed)
        flip = self.flip and random.random() < 0.5
        item: Item = {}
        if self.num_classes is not None:
            item["label"] = label_of(sample.files, self.num_classes, self.class_names)
        if self.captions is not None:
            item["caption"] = caption_of(sample.files, self.captions, random)
        if self.text_states:
            item["text"] = embeddings_of(sample.files, self.text_shape)
        image = image_of(sample.files, self.min_side, lambda image: centre_crop(to_rgb(image), self.image_size))
        return {"image": to_tensor(image, flip), **item}

    def usable(self, samples: Iterable[tuple[Sample, Any]], skipped: SkipCounts) -> Iterator[tuple[Item, Any]]:
        """The items of the samples that can be used, each with what came with its sample; the others are counted."""
        for sample, state in samples:
            try:
                yield self(sample), state
            except Unusable as verdict:
                skipped.add(verdict.reason, f"{sample.key} in {sample.shard} ({verdict.detail})")


def random_of(sample: Sample, seed: int) -> Random:
    """What decides about a sample in its pass: a flip if asked for, then a caption."""
    return Random(f"{seed}/{sample.epoch}/{sample.shard.rpartition('/')[2]}/{sample.key}")


def image_of(
    files: Mapping[str, bytes], min_side: int = 0, convert: Callable[[Image.Image], Image.Image] = to_rgb
) -> Image.Image:
    """The image of a sample, as RGB at its full size; `Unusable` if damaged, or smaller than `min_side`."""
    content = next((files[extension] for extension in IMAGES if extension in files), None)
    if content is None:
        raise Unusable("no image", f"only {', '.join(files)}")
    try:
        with Image.open(BytesIO(content)) as image:
            width, height = image.size
            if min(width, height) >= max(1, min_side):
                return convert(image)
    except Exception as error:  # image decoders raise what they like on damaged bytes
        raise Unusable("corrupt image", str(error)) from error
    raise Unusable("small image", f"{width} x {height} pixels, fewer than {min_side}")


def label_of(files: Mapping[str, bytes], num_classes: int, class_names: Sequence[str] | None = None) -> int:
    """The class of a sample, by its name where there is one, else by the text of `label_in`, a name or a number.

    `Unusable` if there is no label, or no such class; or if names are numbers of other classes, and the text is one.
    """
    text, name = label_in(files)
    names = class_names or ()
    if names and name is not None and name not in names:
        raise Unusable("wrong label", f"{name!r} is not among the names of the classes")
    if name is None and isinstance(text, str) and text.isdecimal() and are_other_numbers(names):
        raise Unusable(
            "wrong label",
            f"{text!r} may be the number of a class or the name of another: pack the folder again, or give num_classes "
            "without class_names and classes.txt to read numbers",
        )
    if (known := text if name is None else name) in names:
        return list(names).index(str(known))
    try:
        label = int(str(text))
    except ValueError as error:
        raise Unusable("wrong label", f"{text!r} is neither a number nor a name of a class") from error
    if not 0 <= label < num_classes:
        raise Unusable("wrong label", f"{label} is not below the number of classes, {num_classes}")
    return label


def label_in(files: Mapping[str, bytes]) -> tuple[object, str | None]:
    """What a sample says of its class; `Unusable` if nothing.

    Returns:
        The text of its `cls` file or the field `label` or `cls` of its json file; and the field `class_name`, if any.
    """
    try:
        fields = json_fields(files["json"]) if "json" in files else {}
    except ValueError as error:
        if "cls" not in files:
            raise Unusable("no label", f"its json: {error}") from error
        fields = {}
    text = fields.get("label", fields.get("cls"))
    if "cls" in files:
        text = files["cls"].decode("utf-8-sig", errors="replace").strip()
    if text is None or text == "":
        raise Unusable("no label", f"neither a cls file nor a field of that name among {', '.join(files)}")
    name = fields.get("class_name")
    return text, name if isinstance(name, str) else None


def are_other_numbers(names: Sequence[str]) -> bool:
    """Whether some name of a class is the number of another."""
    return any(name.isdecimal() and int(name) != i for i, name in enumerate(names))


def caption_of(files: Mapping[str, bytes], captions: Captions, random: Random) -> str:
    """The caption of a sample; `Unusable` if there is none."""
    try:
        return captions(files, random)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such, too
        raise Unusable("no caption", str(error)) from error


def embeddings_of(files: Mapping[str, bytes], shape: tuple[int, ...] | None = None) -> Tensor:
    """Precomputed text embeddings (L, E) of a sample: the tensor `text` of a `safetensors` file, or an `npy` file.

    `Unusable` if there are none, or not of the given shape.
    """
    from safetensors.torch import load

    try:
        if "safetensors" in files:
            embeddings = load(files["safetensors"])["text"]
        elif "npy" in files:
            embeddings = torch.from_numpy(np.load(BytesIO(files["npy"]), allow_pickle=False))
        else:
            raise ValueError(f"neither safetensors nor npy among {', '.join(files)}")
        if embeddings.ndim != 2 or (shape is not None and embeddings.shape != shape):
            raise ValueError(f"their shape is {tuple(embeddings.shape)}, not {shape or '(L, E)'}")
    except Exception as error:  # safetensors has errors that derive from Exception alone
        raise Unusable("no text states", str(error)) from error
    return embeddings
