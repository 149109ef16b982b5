"""From the bytes of a sample to an item of a batch, or the reason why there is none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from pixelgen.data.captions import Captions, json_fields
from pixelgen.data.images import Item, centre_crop, to_tensor
from pixelgen.data.tars import IMAGES, Sample, SkipCounts

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000")  # none starts a program
MAX_PIXELS = 89_478_485  # of one image; Pillow warns of bombs beyond it
# text in a file of more than 1 MB is no damage, as Pillow has it: photo editors write such
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26


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
    upright: bool = True
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
        image = centre_crop(image_of(sample.files, self.min_side, self.upright), self.image_size)
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


def image_of(files: Mapping[str, bytes], min_side: int = 0, upright: bool = True) -> Image.Image:
    """The image of a sample, see `read_image`."""
    content = next((files[extension] for extension in IMAGES if extension in files), None)
    if content is None:
        raise Unusable("no image", f"only {', '.join(files)}")
    return read_image(BytesIO(content), min_side, upright)


def read_image(source: str | Path | BytesIO, min_side: int = 0, upright: bool = True) -> Image.Image:
    """An image of any of the `FORMATS`, whatever its name says, as RGB at its full size.

    With `upright` it is turned as its EXIF orientation asks for, as viewers do. Of several frames it is the first.
    `Unusable` if it is damaged, has more than `MAX_PIXELS` pixels, or fewer than `min_side` on its shorter side.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            _check_size(image, min_side)
            image.load()
            if upright:
                with suppress(Exception):  # damaged EXIF of a sound image
                    ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image)
    except Unusable:
        raise
    except UnidentifiedImageError as error:
        raise Unusable("corrupt image", f"it is none of {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise Unusable("beyond limits", str(error) or "it takes too much memory") from error
    except Exception as error:  # image decoders raise what they like on damaged bytes
        closed = isinstance(error, OSError) and error.errno is not None
        limit = "MAX_TEXT" in str(error)  # of Pillow's reader
        reason = "unreadable file" if closed else "beyond limits" if limit else "corrupt image"
        raise Unusable(reason, str(error)) from error


def _check_size(image: Image.Image, min_side: int) -> None:
    """`Unusable` for an image that is too large or too small."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unusable("beyond limits", f"{width} x {height} pixels, more than {MAX_PIXELS} in all: make it smaller")
    if min(width, height) < max(1, min_side):
        raise Unusable("small image", f"{width} x {height} pixels, fewer than {min_side}")


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits from any mode: transparent pixels over white, 16-bit grey scaled down; `Unusable` for floats."""
    if image.mode == "F":
        raise Unusable("beyond limits", "its pixels are floating-point numbers of no known range: store 8 bits")
    if image.mode.startswith("I"):  # Pillow would clip these at 255
        image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    if image.mode in {"LA", "La", "PA", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


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

    `Unusable` if there are none, or not of the given shape, or not finite.
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
        if not embeddings.isfinite().all():
            raise ValueError("they hold values that are not finite (NaN or infinite): encode them again in bfloat16")
    except Exception as error:  # safetensors has errors that derive from Exception alone
        raise Unusable("no text states", str(error)) from error
    return embeddings
