"""Conditioners: what a batch, a request, a command line and "no condition" become for the denoiser."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from pixelgen.classes import changed_names, numbers_of
from pixelgen.encoders.text import TextEncoder
from pixelgen.flow import Sampler
from pixelgen.models import Denoiser

Batch = dict[str, Any]
Condition = Tensor | Sequence[Any] | int | str | None  # one entry for each image, or a single one for all
Words = Sequence[str | int] | None


class Conditioner(nn.Module):
    """Turns what images are made from into the tensor that the denoiser takes.

    A kind of condition of your own is a subclass with `from_batch` and `null`, which is enough for training and for
    `model.sample` with tensors; `parse`, `from_words` and `examples` give sampling other words for it, the command
    line, and previews. Every method refuses what does not fit with a ValueError. Nothing in a conditioner trains:
    embeddings belong into the denoiser.

    Example:
        class ClassAndColor(Conditioner):
            def from_batch(self, batch):
                return torch.stack([batch["label"], batch["color"]], dim=1)

            def null(self, condition, negative=""):
                return torch.full_like(condition, 10)
    """

    description = "conditions of the data"  # of `examples`, for protocols
    takes_prompts, takes_classes = False, True
    class_names: Sequence[str] | None = None  # in the order of their numbers, once data or weights have told them

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser that does not fit."""

    def take_names(self, names: Sequence[str] | None) -> None:
        """Take over the names of the classes of data or weights, if there are any."""
        if self.takes_classes and names is not None:
            if said := changed_names(self.class_names, names):
                rank_zero_warn(f"from here on, classes have other names: {said}")
            self.class_names = list(names)

    def check_data(self, denoiser: Denoiser, data: Any) -> None:
        """Refuse a data module, already set up, whose batches lack what `from_batch` needs."""

    @property
    def settings(self) -> dict[str, Any]:
        """What images depend on beside the weights of the denoiser (JSON)."""
        return {}

    # Training

    def from_batch(self, batch: Batch) -> Tensor | None:
        """Conditions (B, …) of a batch, on the device of its images; None where there are none."""
        raise NotImplementedError

    def null(self, condition: Tensor, negative: str = "") -> Tensor | None:
        """What stands for "no condition", shaped like `condition` (B, …), or what guidance leads away from."""
        raise NotImplementedError

    def drop(self, condition: Tensor | None, drop: Tensor) -> Tensor | None:
        """Conditions, replaced by the null condition where `drop` (B,), on the CPU, is true."""
        null = None if condition is None else self.null(condition)
        if condition is None or null is None:
            return condition
        where = drop.to(condition.device, non_blocking=True).view(-1, *[1] * (condition.ndim - 1))
        return torch.where(where, null, condition)

    # Sampling

    def check_negative(self, sampler: Sampler, negative: str) -> None:
        """Refuse a negative prompt that could do nothing."""
        if negative and not self.takes_prompts:
            raise ValueError("this network does not take prompts, so there is no negative one: leave it out")
        if negative and not sampler.guided:
            raise ValueError("a negative prompt does nothing without guidance: give a sampler with guidance above 1")

    def parse(self, given: Condition, number: int) -> Tensor | list[Any] | None:
        """Checked requests, one for each image; `given` may be a single one for `number` images."""
        try:
            requests = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{type(self).__name__} takes conditions as a tensor, not {given!r}") from error
        return requests.expand(number) if requests.ndim == 0 else requests

    def encode(self, requests: Tensor | Sequence[Any] | None, device: torch.device) -> Tensor | None:
        """Conditions (B, …) on a device from the requests of a batch."""
        return None if requests is None else torch.as_tensor(requests, device=device)

    def from_words(self, classes: Words, prompts: Sequence[str] | None) -> list[Any]:
        """Requests from the command line's `--classes` and `--prompts`; images take them in turn."""
        raise ValueError(f"{type(self).__name__} reads no --classes or --prompts: sample from Python")

    def examples(self, number: int, data: Any) -> list[Any]:
        """Requests of `number` images for previews and scores in training."""
        raise ValueError(
            f"{type(self).__name__} gives no examples for previews and scores: implement `examples(number, data)`, or "
            "set callbacks.preview, callbacks.fid and callbacks.geneval to null"
        )


class Unconditional(Conditioner):
    """Nothing but noise."""

    description, takes_classes = "no classes", False

    def check(self, denoiser: Denoiser) -> None:
        """The denoiser must take no condition."""
        if denoiser.num_classes is not None or denoiser.text_shape is not None:
            raise ValueError(f"model.conditioner is null, but {type(denoiser).__name__} takes one: leave it out")

    def from_batch(self, batch: Batch) -> None:
        """None."""

    def parse(self, given: Condition, number: int) -> None:
        """None; anything else is refused."""
        if given is not None:
            raise ValueError("this network is unconditional: give seeds alone, one for each image")

    def from_words(self, classes: Words, prompts: Sequence[str] | None) -> list[Any]:
        """A request without content."""
        if classes or prompts:
            raise ValueError("this network has neither classes nor text: leave out --classes and --prompts")
        return [None]

    def examples(self, number: int, data: Any) -> list[Any]:
        """As many requests without content."""
        return [None] * number


class Labels(Conditioner):
    """Classes by number, in the order of `class_names`; the number after the last is the null class.

    Args:
        num_classes: without the null class.
    """

    description = "each class in turn"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.known = f"0 to {num_classes - 1}"

    def check(self, denoiser: Denoiser) -> None:
        """The denoiser must have as many classes."""
        if denoiser.num_classes != self.num_classes:
            raise ValueError(f"the conditioner has {self.num_classes} classes, the denoiser {denoiser.num_classes}")

    def check_data(self, denoiser: Denoiser, data: Any) -> None:
        """The data must have as many classes; their names are taken over."""
        if self.num_classes != data.num_classes:
            found = "no labels" if data.num_classes is None else f"{data.num_classes} classes"
            raise ValueError(
                f"the data has {found}, but the denoiser is built for num_classes {self.num_classes}: leave "
                "num_classes out to take the data's, or set it to null to train without labels"
            )
        self.take_names(data.class_names)

    def from_batch(self, batch: Batch) -> Tensor | None:
        """Labels (B,)."""
        return batch.get("label")

    def null(self, condition: Tensor, negative: str = "") -> Tensor:
        """The null class for each."""
        return torch.full_like(condition, self.num_classes)

    def parse(self, given: Condition, number: int) -> Tensor:
        """Class numbers (N,) of numbers, or of words as in `from_words`."""
        if given is None:
            raise ValueError(f"give the class of each image, {self.known} (or {self.num_classes} for no class)")
        if isinstance(given, str) or (isinstance(given, Sequence) and any(isinstance(word, str) for word in given)):
            numbers = self.from_words([given] if isinstance(given, str) else given, None)
            given = numbers[0] if isinstance(given, str) and len(numbers) == 1 else numbers
        try:
            labels = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"conditions are class numbers, {self.known}, not {given!r}") from error
        if labels.numel() and (labels.is_floating_point() or labels.dtype == torch.bool):
            raise ValueError(f"conditions are class numbers, {self.known}, not {given!r}")
        if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) > self.num_classes:
            raise ValueError(
                f"classes must lie between 0 and {self.num_classes - 1} (or be {self.num_classes} for no class)"
            )
        return labels.long().expand(number) if labels.ndim == 0 else labels.long()

    def from_words(self, classes: Words, prompts: Sequence[str] | None) -> list[Any]:
        """All class numbers, or those of `--classes`: numbers, ranges and names, as `numbers_of` reads them."""
        if prompts:
            raise ValueError("this network knows no text: leave out --prompts and --negative, and give --classes")
        words: Sequence[str | int] = classes or range(self.num_classes)
        return [number for word in words for number in numbers_of(word, self.num_classes, self.class_names)]

    def examples(self, number: int, data: Any) -> list[Any]:
        """Image i gets class i mod their number; fewer images than classes are spaced evenly over them."""
        if number >= self.num_classes:
            return [i % self.num_classes for i in range(number)]
        return [i * self.num_classes // number for i in range(number)]


class Text(Conditioner):
    """Prompts, as text embeddings (L, E) of a frozen encoder.

    Args:
        encoder: the text encoder; without one, a model takes embeddings alone, and no guidance.
    """

    description = "captions of the data"
    takes_prompts, takes_classes = True, False

    def __init__(self, encoder: TextEncoder | None) -> None:
        super().__init__()
        self.encoder = encoder

    def check(self, denoiser: Denoiser) -> None:
        """The encoder's embeddings must have the shape that the denoiser takes."""
        encoder, kind = self.encoder, type(denoiser).__name__
        if denoiser.text_shape is None:
            raise ValueError(f"{kind} takes no prompts: leave text_encoder out, or choose TextJiT")
        length, width = denoiser.text_shape
        if encoder is not None and (encoder.max_length, encoder.width) != (length, width):
            raise ValueError(
                f"the text encoder gives {encoder.max_length} embeddings of width {encoder.width}, but the denoiser is "
                f"built for {length} of width {width}: set text_length and the encoder's max_length to one number, and "
                f"text_dim to {encoder.width}"
            )
        if encoder is not None and encoder.zero_padding != denoiser.mask_padding:
            raise ValueError(
                f"the denoiser's mask_padding is {denoiser.mask_padding}, but the text encoder's zero_padding is "
                f"{encoder.zero_padding}: padding is masked with both, and looked at, as released, with neither"
            )

    def check_data(self, denoiser: Denoiser, data: Any) -> None:
        """The data must have captions, and precomputed embeddings those of the same encoder."""
        kind = type(denoiser).__name__
        if not data.captions:
            raise ValueError(
                f"{kind} learns from captions, but the data has none: choose data with captions (for ShapesData, "
                "data.captions true; for others, data.captions Captions), or JiT for images without text"
            )
        encoder = self._encoder(f"{kind} takes prompts through a text encoder")
        if data.text_shape not in (None, denoiser.text_shape):
            shapes = data.text_shape, denoiser.text_shape or ()
            found, own = ("{} text embeddings of width {}".format(*shape) for shape in shapes)
            raise ValueError(
                f"the shards hold {found}, but the denoiser is built for {own}: encode the shards anew with the "
                "model's text_encoder (python -m pixelgen.encode)"
            )
        for settings in data.text_settings:
            for name in ("max_length", "width", "zero_padding", "weights"):
                made, given = settings.get(name), encoder.settings[name]
                if made != given and _comparable(made, given):
                    raise ValueError(
                        f"the text embeddings in the shards were made by {settings.get('model')} with {name} {made}, "
                        f"but the model's text_encoder has {given}: give it the same, or encode the shards anew"
                    )

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the text encoder, which its weights name."""
        if self.encoder is None:
            return {}
        return {"text_encoder": {name: value for name, value in self.encoder.settings.items() if name != "model"}}

    def from_batch(self, batch: Batch) -> Tensor | None:
        """Embeddings (B, L, E): those of the batch, or of its captions."""
        if "text" not in batch and "caption" not in batch:
            raise ValueError("a network that takes text needs batches with `caption` (prompts) or `text` (embeddings)")
        return self.encode(batch["text"] if "text" in batch else batch["caption"], batch["image"].device)

    def null(self, condition: Tensor, negative: str = "") -> Tensor:
        """Embeddings of the empty or the negative prompt for each."""
        encoder = self._encoder("the empty prompt, which is dropped to and guided away from, needs a text encoder")
        return encoder.recall(negative).to(condition).expand_as(condition)

    def parse(self, given: Condition, number: int) -> Tensor | list[Any]:
        """Prompts (N), or embeddings (N, L, E)."""
        if isinstance(given, Tensor) and given.is_floating_point():
            return given.expand(number, *given.shape) if given.ndim == 2 else given
        prompts = [given] * number if isinstance(given, str) else given
        if not isinstance(prompts, Sequence) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"this network takes prompts, such as ['a red circle'], not {given!r}")
        return list(prompts)

    def encode(self, requests: Tensor | Sequence[Any] | None, device: torch.device) -> Tensor | None:
        """Embeddings (B, L, E) of prompts."""
        if requests is None or isinstance(requests, Tensor):
            return super().encode(requests, device)
        found: Tensor = self._encoder("prompts need a text encoder")(requests)
        return found.to(device)

    def from_words(self, classes: Words, prompts: Sequence[str] | None) -> list[Any]:
        """The prompts of `--prompts`, or the lines of a text file."""
        if classes or not prompts:
            raise ValueError("this model takes text: use --prompts, not --classes")
        file = prompts[0]
        if len(prompts) > 1 or not (file.endswith(".txt") or os.path.isfile(file)):
            return list(prompts)
        try:
            lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read as text ({error}): give a file with one prompt a line") from error
        if not any(lines):
            raise ValueError(f"{file} has no prompts: write one a line")
        return [line for line in lines if line]

    def examples(self, number: int, data: Any) -> list[Any]:
        """Captions of training images, evenly spaced, from the first again where there are fewer."""
        if data is None or not getattr(data, "captions", False):
            raise ValueError("no data module has captions that could serve as prompts: give prompts to the callback")
        prompts: list[Any] = data.prompts(number)
        return prompts

    def _encoder(self, reason: str) -> TextEncoder:
        if self.encoder is None:
            raise ValueError(f"{reason}, which this model has not: give it one as `text_encoder`")
        return self.encoder


def conditioner_of(denoiser: Denoiser, text_encoder: TextEncoder | None) -> Conditioner:
    """The conditioner that a denoiser asks for: text, classes, or none."""
    if text_encoder is not None or denoiser.text_shape is not None:
        return Text(text_encoder)
    return Unconditional() if denoiser.num_classes is None else Labels(denoiser.num_classes)


def _comparable(made: object, given: object) -> bool:
    """Whether weights are both named by a hash of a folder, or both by a commit on the hub."""
    kinds = {str(value).partition(":")[0] if ":" in str(value) else "" for value in (made, given)}
    return len(kinds) == 1
