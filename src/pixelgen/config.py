"""Objects from configs, and the parser's nested reports about bad input told in one sentence."""

import inspect
import re
import sys
from argparse import ArgumentError
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from pixelgen.flow import Sampler

set_parsing_settings(subclasses_enabled=[Sampler])  # else a dataclass stands for itself alone

# lines of a report that only describe how the parser got to the fault
_FRAME = re.compile(
    r"(Does not validate against|Subtypes:|Errors:|Given value|Parser key|Problem with given class_path"
    r"|Type typing|Expected a path but|Expected a <class 'NoneType'>|$)"
)

_KINDS = {"collections.abc.Sequence": "a list"}


def build(kind: Any, config: Any, what: str = "value") -> Any:
    """Build an object of a type from a config, as the command line does.

    Args:
        kind: the type, or a base class of it.
        config: `class_path` and `init_args`, arguments alone, or a class name.
        what: name of the config in error messages.

    Raises:
        ValueError: in one sentence.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{what}", type=kind)
    try:
        found = config if isinstance(config, Namespace) else parser.parse_object({what: config})[what]
        return parser.instantiate(Namespace(**{what: found}))[what]
    except (ArgumentError, ValueError, OSError, ModuleNotFoundError) as error:
        raise ValueError(one_sentence(error)) from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; a ValueError says what is wrong with another."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as a config ({' '.join(str(error).split())})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no config: give a YAML file with sections such as model and data")
    return dict(content)


def one_sentence(error: Exception, flags: Collection[str] = ()) -> str:
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
        trains = "--config" in flags and not place
        start = ", or start from a config, as in --config configs/demo.yaml" if trains else ""
        flags = [f"--{place}.{name}" if place else f"--{name}" for name in required[1].split(", ")]
        return f"{' and '.join(flags)} must be given{start}"
    if unknown := re.search(r"unrecognized arguments: (\S+)", report):
        return f"there is no option {unknown[1]}{_suggest(unknown[1].partition('=')[0], flags)}"
    if option := re.search(r"Option '([\w.]+)' is not accepted", report):
        options = _arguments(classes[-1]) if classes else []
        return f"{place or 'the config'} has no option {option[1]!r}{_suggest(option[1], options)}"
    kinds = re.findall(r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[(.+?)\])", report)
    name = re.search(r"Expected a dot import path string: (\S+)", report)
    if name and not {kind for kind, _ in kinds} - {"", "NoneType"}:
        known = _class_names()
        other = f"{name[1]} is of another kind than what belongs there: name another class"
        return f"{place}: " + (
            other if name[1] in known else f"there is no class {name[1]!r}{_suggest(name[1], known)}"
        )
    leaves = [line.strip().removeprefix("- ") for line in report.splitlines()]
    leaf = next((line for line in leaves if not _FRAME.match(line)), report.splitlines()[0])
    leaf = re.sub(r'^Parser key "([\w.]+)": (?!Expected)', r"\1: ", leaf)
    if leaf.startswith("Expected a <") or leaf.startswith("Expected a typing.Literal"):
        words = dict.fromkeys(choices or _KINDS.get(kind, kind) for kind, choices in kinds if kind != "NoneType")
        found = re.search(r"G(?:iven|ot) value: (.*?)(?:\. Got value|$)", report, re.MULTILINE)
        leaf = f"expected {' or '.join(words)}, got {found[1] if found else 'something else'}"
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
    """Names of the package's classes that are loaded, and paths of the functions that build one."""
    loaded = [module for name, module in sys.modules.items() if name.startswith("pixelgen.")]
    classes = {
        value.__name__
        for module in loaded
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__.startswith("pixelgen.") and not value.__name__.startswith("_")
    }
    builders = [import_module(f"pixelgen.{room}") for room in ("models", "encoders")]
    functions = [f"{m.__name__}.{name}" for m in builders for name in m.__all__ if isfunction(getattr(m, name))]
    return [*functions, *sorted(classes)]
