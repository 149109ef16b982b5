"""What images are asked for: classes by number, range or name, and prompts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path


def parse_classes(words: Sequence[str | int], num_classes: int | None, names: Callable[[], list[str]]) -> list[int]:
    """Class numbers in the order of `words`: numbers, ranges such as `10-19` (both ends count), or names.

    Args:
        words: as on the command line.
        num_classes: of the network, or None.
        names: called when a name must be looked up; its ValueError tells why there are none.

    Raises:
        ValueError: naming the word that is no class, and the nearest name.
    """
    if num_classes is None:
        raise ValueError("this network has no classes: leave out --classes")
    numbers: list[int] = []
    for word in map(str, words):
        if found := re.fullmatch(r"(\d+)(?:-(\d+))?", word):
            first, last = int(found[1]), int(found[2] or found[1])
            if not first <= last <= num_classes:
                raise ValueError(f"there is no class {word}: classes are 0 to {num_classes - 1} ({num_classes}: none)")
            numbers += range(first, last + 1)
        else:
            numbers.append(_class_of(word, num_classes, names))
    return numbers


def _class_of(name: str, num_classes: int, names: Callable[[], list[str]]) -> int:
    try:
        known = [known.casefold() for known in names()]
    except ValueError as error:
        raise ValueError(f"{error}: give numbers, 0 to {num_classes - 1}, instead of {name!r}") from error
    if name.casefold() in known:
        return known.index(name.casefold())
    near = get_close_matches(name.casefold(), known, n=1)
    raise ValueError(
        f"there is no class {name!r}: " + (f"did you mean {near[0]!r}?" if near else f"one is {known[0]!r}")
    )


def parse_prompts(words: Sequence[str]) -> list[str]:
    """The prompts themselves, or those in a text file, one a line (empty lines do not count).

    Raises:
        ValueError: if the file has none, or cannot be read.
    """
    first = words[0]
    if len(words) != 1 or not (first.endswith(".txt") or os.path.isfile(first)):
        return list(words)
    try:
        lines = [line.strip() for line in Path(first).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{first} cannot be read as text ({error}): give a file with one prompt a line") from error
    if not any(lines):
        raise ValueError(f"{first} has no prompts: write one a line")
    return [line for line in lines if line]
