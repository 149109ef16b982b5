"""Which text stands for an image: captions from files, and the published recipe for short ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from pixelgen.checks import FROM_ZERO, SHARE, checked
from pixelgen.files import decode

PREFIXES = (
    "A photo of ",
    "A picture of ",
    "An image of ",
    "A photograph of ",
    "This is a photo of ",
    "This is an image of ",
    "The picture shows ",
    "The image shows ",
)


MAX_CAPTION = 1 << 24  # bytes of a caption file


class Captions:
    """Chooses an image's caption and, as in the published recipe, starts short ones with a phrase.

    An image may have a `txt` file and a `json` file with several captions under names of their own; a list of texts
    under one name counts as one caption, of which any may be taken. Everything is decided by the random generator
    that the caller passes in.

    Args:
        weights: how often each caption is chosen: `txt`, or the name of a field of the json file. Of those an image
            has, one is chosen with a probability in proportion to these weights. If not given, the text file, or
            without one the field `caption`.
        prefix_probability: share of the short captions that get a prefix; 0 for none.
        short: a caption is short if it has fewer words than this.

    Raises:
        ValueError: if a weight or the probability is out of range.
    """

    @checked(weights=FROM_ZERO, prefix_probability=SHARE, short=FROM_ZERO)
    def __init__(
        self, weights: dict[str, float] | None = None, prefix_probability: float = 0.5, short: int = 30
    ) -> None:
        if weights is not None and not any(weights.values()):
            raise ValueError(f"captions.weights are {weights}: give at least one positive weight")
        self.weights, self.prefix_probability, self.short = weights, prefix_probability, short

    def __call__(self, files: Mapping[str, bytes], random: Random) -> str:
        """The caption of a sample, from its files by extension; a ValueError if there is none, or it is damaged."""
        found = self._found(files)
        if not found:
            raise ValueError(f"none of {', '.join(self.weights or ('txt', 'caption'))} among {', '.join(files)}")
        names = list(found)
        name = names[0]
        if self.weights is not None:
            name = random.choices(names, [self.weights[name] for name in names])[0]
        caption = random.choice(found[name])
        if len(caption.split()) < self.short and random.random() < self.prefix_probability:
            return random.choice(PREFIXES) + caption
        return caption

    def _found(self, files: Mapping[str, bytes]) -> dict[str, list[str]]:
        """The captions that a sample has and that may be chosen, as lists of texts by name."""
        texts: dict[str, Any] = {}
        if "txt" in files and (self.weights is None or self.weights.get("txt")):
            texts["txt"] = decode(_within(files["txt"]))
        names = ("caption",) if self.weights is None else tuple(name for name, w in self.weights.items() if w)
        if "json" in files and not (self.weights is None and texts) and set(names) - {"txt"}:
            fields = json_fields(files["json"])
            texts |= {name: fields[name] for name in names if name in fields}
        return {name: some for name, value in texts.items() if (some := _texts(value))}


def caption_paths(image: Path) -> dict[str, Path]:
    """The caption files that are beside an image, `x.txt` and `x.json` beside `x.jpg`, by extension."""
    return {name: path for name in ("txt", "json") if (path := image.with_suffix(f".{name}")).is_file()}


def caption_files(image: Path) -> dict[str, bytes]:
    """The content of the caption files beside an image by extension, see `read_caption`."""
    return {name: read_caption(path) for name, path in caption_paths(image).items()}


def read_caption(path: Path) -> bytes:
    """The content of a caption file; a ValueError if it is longer than any caption."""
    with path.open("rb") as file:
        return _within(file.read(MAX_CAPTION + 1))


def _within(content: bytes) -> bytes:
    """The same; a ValueError if it is longer than any caption: parsed, it may take thirty times as much memory."""
    if len(content) > MAX_CAPTION:
        raise ValueError(f"it has more than {MAX_CAPTION} bytes")
    return content


def _texts(value: Any) -> list[str]:
    """The texts in a field that are not empty, without the white space around them."""
    values = value if isinstance(value, list) else [value]
    # json may hold halves of surrogate pairs, which are no characters, and at which tokenizers stop the run
    texts = (text.encode(errors="ignore").decode().strip() for text in values if isinstance(text, str))
    return [text for text in texts if text]


def json_fields(content: bytes) -> dict[str, Any]:
    """The fields of a json file, none if it holds something else than an object; a ValueError if it is damaged."""
    try:
        fields = json.loads(_within(content))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return fields if isinstance(fields, dict) else {}
