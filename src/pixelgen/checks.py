"""Arguments against their annotations and ranges, and one sentence about what does not fit."""

import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

F = TypeVar("F", bound=Callable[..., Any])
WORDS = {
    int: "a whole number",
    float: "a number",
    Any: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
}


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, without these themselves where they are `above` or `below`."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        high = value < self.most or (value == self.most and not self.below)
        return high and (value > self.least or (value == self.least and not self.above))

    def __str__(self) -> str:
        """The range in words, to stand after "a number"."""
        low = f"{'above' if self.above else 'of at least'} {self.least}"
        return low if self.most == math.inf else f"{low} and {'below' if self.below else 'at most'} {self.most}"


COUNT, FROM_ZERO, POSITIVE, SHARE = Range(1), Range(0), Range(0, above=True), Range(0, 1)
SEED = Range(0, 2**63 - 1)  # what generators of torch take
ANY: Mapping[str, Range] = MappingProxyType({})


def checked(**ranges: Range) -> Callable[[F], F]:
    """Let a function or constructor refuse, with a ValueError, arguments that are not what its annotations say.

    Args:
        ranges: of arguments that are numbers, or sequences or mappings of numbers, by name.
    """

    def decorate(function: F) -> F:
        signature, hints = inspect.signature(function), functools.cache(lambda: _hints(function))

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            given = signature.bind(*args, **options).arguments
            check(given, hints(), ranges, f"{type(given['self']).__name__}." if "self" in given else "")
            return function(*args, **options)

        return cast(F, call)

    return decorate


def check_fields(instance: Any, prefix: str, **ranges: Range) -> None:
    """The same for the fields of a dataclass, in its `__post_init__`; `prefix` stands before their names in errors."""
    values = {field.name: getattr(instance, field.name) for field in fields(instance)}
    check(values, _hints(type(instance)), ranges, prefix)


def check(
    values: Mapping[str, Any], hints: Mapping[str, Any], ranges: Mapping[str, Range] = ANY, prefix: str = ""
) -> None:
    """Refuse the first value that does not fit its annotation or range, with a ValueError of one sentence."""
    for name, value in values.items():
        hint, within = hints.get(name, Any), ranges.get(name)
        if not fits(value, hint) or not _within(value, within):
            raise ValueError(f"{prefix}{name} is {_shown(value)}: give {describe(hint, within)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says: numbers are finite, texts are no numbers, and paths are not empty."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if Path in inner and isinstance(value, str):
            return bool(value.strip())
        return any(fits(value, part) for part in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if _is_kind(origin, Sequence):
        entries = _entries(value)
        fixed = origin is tuple and Ellipsis not in inner
        return (
            entries is not None
            and (not fixed or len(entries) == len(inner))
            and all(fits(e, inner[0]) for e in entries)
        )
    if _is_kind(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    return _is_plain(value, origin or hint)


def _is_plain(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        number: Any = Integral if kind is int else Real
        return not isinstance(value, bool) and isinstance(value, number) and bool(-math.inf < value < math.inf)
    if kind is Path:
        return isinstance(value, os.PathLike) or (isinstance(value, str) and bool(value.strip()))
    return kind is Any or not inspect.isclass(kind) or isinstance(value, kind)


def _is_kind(origin: Any, kind: type) -> bool:
    return inspect.isclass(origin) and issubclass(origin, kind)


def _entries(value: Any) -> Sequence[Any] | None:
    """The entries of a list, a tuple, a range or an array; None of anything else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


def _within(value: Any, within: Range | None) -> bool:
    """Whether a number, or each of several, is in a range; what is no number is."""
    if within is None or isinstance(value, bool | str):
        return True
    several = value.values() if isinstance(value, Mapping) else _entries(value)
    if several is not None:
        return all(_within(one, within) for one in several)
    return not isinstance(value, Real) or cast(float, value) in within


def describe(hint: Any, within: Range | None = None) -> str:
    """What an annotation and a range ask for, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        parts = [part for part in inner if part is not str or Path not in inner]
        return " or ".join(dict.fromkeys(describe(part, within) for part in parts))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if _is_kind(origin, Sequence):
        several = f"{len(inner)} entries" if origin is tuple and Ellipsis not in inner else "entries"
        return f"a list with {several} that are each {describe(inner[0], within)}"
    if _is_kind(origin, Mapping):
        return f"a mapping from {describe(inner[0])} to {describe(inner[1], within)}"
    words = WORDS.get(hint, f"an instance of {getattr(origin or hint, '__name__', hint)}")
    return f"{words} {within}" if within is not None and hint in (int, float, Any) else words


def _hints(described: Any) -> dict[str, Any]:
    """Annotations of a function or class; none where they name what cannot be found."""
    try:
        return get_type_hints(described)
    except NameError:
        return {}


def _shown(value: Any) -> str:
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
