"""The parser's nested reports about bad input, told in one sentence."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from inspect import isfunction
from typing import Any

from torch import nn

# lines of a report that only describe how the parser got to the fault
_FRAME = re.compile(
    r"(Does not validate against|Subtypes:|Errors:|Given value|Parser key|Problem with given class_path"
    r"|Expected a path but|Expected a <class 'NoneType'>|$)"
)


def one_sentence(error: Exception, flags: Iterable[str] = ()) -> str:
    """What is wrong and where, with the nearest valid name where a name is wrong.

    Args:
        error: from the parser or from a constructor.
        flags: every flag there is, for unknown ones.
    """
    report = str(error)
    place = ".".join(re.findall(r'Parser key "([\w.]+)"', report))
    classes = re.findall(r"given class_path '([\w.]+)'", report)
    if "Requirement 'wandb" in report:
        return "W&B is not installed: pip install wandb (the extra `wandb` of this package)"
    if required := re.search(r"following arguments are required: (.+)", report):
        start = "" if place else ", or start from a config, as in --config configs/demo.yaml"
        flags = [f"--{place}.{name}" if place else f"--{name}" for name in required[1].split(", ")]
        return f"{' and '.join(flags)} must be given{start}"
    if unknown := re.search(r"unrecognized arguments: (\S+)", report):
        return f"there is no option {unknown[1]}{_suggest(unknown[1].partition('=')[0], flags)}"
    if option := re.search(r"Option '([\w.]+)' is not accepted", report):
        options = _arguments(classes[-1]) if classes else []
        return f"{place or 'the config'} has no option {option[1]!r}{_suggest(option[1], options)}"
    if name := re.search(r"Expected a dot import path string: (\S+)", report):
        return f"{place}: there is no class {name[1]!r}{_suggest(name[1], _class_names())}"
    leaves = [line.strip().removeprefix("- ") for line in report.splitlines()]
    leaf = next((line for line in leaves if not _FRAME.match(line)), report.splitlines()[0])
    leaf = re.sub(r'^Parser key "([\w.]+)": ', r"\1: ", leaf)
    leaf = re.sub(r"Expected a <class '(\w+)'>\. Got value: ", r"expected \1, got ", leaf)
    return f"{place}: {leaf}" if place and not leaf.startswith(place) else leaf


def _suggest(name: str, names: Iterable[str]) -> str:
    """The nearest of `names`, whatever the case, as the end of a sentence."""
    spelled = {re.sub(r"^pixelgen\.\w+\.", "", known).lower(): known for known in names}
    matches = get_close_matches(name.lower(), spelled, n=1, cutoff=0.7)
    return f": did you mean {spelled[matches[0]]}?" if matches else ""


def _arguments(class_path: str) -> list[str]:
    """Constructor arguments of a class, those of its bases included."""
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module), name)
    classes = found.__mro__ if isinstance(found, type) else [found]
    return [name for cls in classes for name in inspect.signature(cls).parameters]


def _class_names() -> list[str]:
    """Names of our own classes that configs may use, and paths of the functions that build one."""
    from lightning import LightningDataModule

    def below(cls: Any) -> Iterable[Any]:
        for subclass in cls.__subclasses__():
            yield subclass
            yield from below(subclass)

    from pixelgen.flow import Sampler, TimeSampler

    roots = (nn.Module, LightningDataModule, Sampler, TimeSampler)
    names = [cls.__name__ for root in roots for cls in below(root) if cls.__module__.startswith("pixelgen")]
    modules = [import_module(f"pixelgen.{room}") for room in ("models", "encoders")]
    return [*(f"{m.__name__}.{name}" for m in modules for name in m.__all__ if isfunction(getattr(m, name))), *names]
