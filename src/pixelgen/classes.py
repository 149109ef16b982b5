"""A class has a number and a name: which of them a word means, and whether names have changed."""

import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any


def numbers_of(word: str | int, num_classes: int, names: Sequence[str] | None) -> Sequence[int]:
    """The numbers of the classes that a word means: a name, a number, or a range such as `10-19` (both ends count).

    All that WordNet calls an ImageNet class are names of it. Integers, and what follows `number:`, are numbers alone.

    Raises:
        ValueError: if there is no such class, or the word may be several, by number and name or by name.
    """
    names = names or ()
    alone = not isinstance(word, str) or (word.startswith("number:") and word not in names)
    text = str(word).removeprefix("number:") if alone else str(word)
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
    numbers = range(first, last + 1) if last <= num_classes else range(0)
    named = [] if alone else _named(text, names)
    readings = {text if last > first else str(first): first} if numbers else {}
    readings |= {str(number): number for number in named}
    if len(readings) > 1:
        said = " or ".join(f"number:{key} ({_described(number, names)})" for key, number in readings.items())
        raise ValueError(f"{text!r} may be {said}: give one of them")
    if not readings and (alone or found):
        raise ValueError(f"there is no class {text}: classes are 0 to {num_classes - 1} ({num_classes}: none)")
    if not readings and not names:
        raise ValueError(f"the classes have no known names: give numbers, 0 to {num_classes - 1}, instead of {text!r}")
    if not readings:
        raise ValueError(f"there is no class {text!r}: {_nearest(text, names)}")
    return named or numbers


def _named(text: str, names: Sequence[str]) -> list[int]:
    """Numbers of the classes with a name; else of those that differ in case alone; else by their words of WordNet."""
    if text in names:
        return [names.index(text)]
    same = [i for i, name in enumerate(names) if _plain(name) == _plain(text)]
    return same or [i for i, name in enumerate(names) if _plain(text) in map(_plain, _words(name))]


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().replace("_", " ").strip()


@cache
def _imagenet() -> Any:
    from timm.data import ImageNetInfo

    return ImageNetInfo()


def imagenet_names() -> list[str]:
    """The names of ImageNet's 1000 classes, such as n02099601, in the order of their numbers."""
    return list(_imagenet().label_names())


def _words(name: str, detailed: bool = False) -> list[str]:
    """What WordNet calls an ImageNet class, as a line and word by word; nothing for any other name."""
    try:
        line: str = _imagenet().label_name_to_description(name, detailed) if re.fullmatch(r"n\d{8}", name) else ""
    except KeyError:
        line = ""
    return [line, *line.split(", ")] if line else []


def _described(number: int, names: Sequence[str]) -> str:
    name = names[number] if number < len(names) else "no class"
    return ", ".join([repr(name), *_words(name, detailed=True)[:1]])


def _nearest(text: str, names: Sequence[str]) -> str:
    known = {_plain(word): word for name in names for word in (*_words(name), name)}
    near = get_close_matches(_plain(text), known, n=1)
    return f"did you mean {known[near[0]]!r}?" if near else f"one is {names[0]!r}"


def changed_names(before: Sequence[str] | None, now: Sequence[str] | None) -> str:
    """In which words two lists of names differ; empty if they do not, or one is not known."""
    if before is None or now is None or list(before) == list(now):
        return ""
    pairs = enumerate(zip(before, now, strict=False))
    said = [f"class {i} was {a!r} and is {b!r}" for i, (a, b) in pairs if a != b][:1]
    for kind, some, others in (("gone", before, now), ("new", now, before)):
        if names := [repr(name) for name in some if name not in others]:
            said.append(f"{kind}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    return "; ".join(said)


def refuse_other_classes(stored: Sequence[str] | None, found: Sequence[str] | None) -> None:
    """Refuse data whose classes are not those that a checkpoint was trained with."""
    if said := changed_names(stored, found):
        raise ValueError(
            f"the classes of the data are not those of the checkpoint ({said}): give the data back its classes, or "
            "start a new run with --init_from"
        )
