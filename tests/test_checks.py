"""What fits an annotation and a range, and how what does not is told."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pixelgen.checks import COUNT, SHARE, Range, checked, describe, fits


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, True),
        (np.int64(3), int, True),
        (True, int, False),
        (3, float, True),
        (float("nan"), float, False),
        ("3", int, False),
        (1, bool, False),
        (None, int | None, True),
        ("a", str | Path, True),
        (" ", str | Path, False),
        (Path("a"), str | Path | None, True),
        ([1, 2], Sequence[int], True),
        (range(3), Sequence[int], True),
        (np.arange(3), Sequence[int], True),
        ("12", Sequence[str], False),
        ((1, 2), tuple[int, int], True),
        ((1,), tuple[int, int], False),
        ((1, 2, 3), tuple[int, ...], True),
        ({"a": 1.0}, dict[str, float], True),
        ({"a": "b"}, dict[str, float], False),
        ("min", Literal["min", "max"], True),
        (1, Literal[True], False),
        (print, Callable[[Any], None], True),
        ("print", Callable[[Any], None], False),
        (torch.zeros(2), torch.Tensor | Sequence[Any], True),
        (object(), Any, True),
    ],
)
def test_what_fits_an_annotation(value, hint, expected):
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("hint", "within", "words"),
    [
        (int | None, COUNT, "a whole number of at least 1 or null"),
        (float, SHARE, "a number of at least 0 and at most 1"),
        (float, Range(0, 0.28, above=True, below=True), "a number above 0 and below 0.28"),
        (Literal["min", "max"], None, "min or max"),
        (tuple[int, int], COUNT, "a list with 2 entries that are each a whole number of at least 1"),
        (str | Path | None, None, "a path or null"),
    ],
)
def test_what_to_give_is_said_in_words(hint, within, words):
    assert describe(hint, within) == words


def test_functions_keep_their_names_and_are_called_with_what_fits():
    @checked(times=COUNT)
    def repeat(text: str, times: int = 2) -> str:
        """Text again and again."""
        return text * times

    assert (repeat("a"), repeat("a", times=3), repeat.__doc__) == ("aa", "aaa", "Text again and again.")
    with pytest.raises(ValueError, match=r"^times is 0: give a whole number of at least 1$"):
        repeat("a", 0)
    with pytest.raises(ValueError, match=r"^text is null: give text$"):
        repeat(None)
