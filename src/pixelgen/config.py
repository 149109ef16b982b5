"""Objects from configs, and the parser's nested reports about bad input told in one sentence."""

import inspect
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from pixelgen.files import read_text, what_is
from pixelgen.flow import Sampler

set_parsing_settings(subclasses_enabled=[Sampler])  # else a dataclass stands for itself alone
ALIASED = 100_000  # values that the aliases of a YAML may stand for
_yaml = get_loader("yaml")

# lines of a report that only describe how the parser got to the fault
_FRAME = re.compile(
    r"(Does not validate against|Subtypes:|Errors:|Given value|Parser key|Problem with given class_path"
    r"|Type typing|Expected a path but|Expected a <class 'NoneType'>|$)"
)
_PREFIX = re.compile(r"^(Problems parsing config: |Invalid content in sub-config file )")

_KINDS = {"Sequence": "list"}


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
    """A YAML file that holds a mapping; a ValueError says what is wrong with another, and in which line."""
    fix = "give a YAML file with sections such as model and data"
    if wrong := what_is(path, "text"):
        raise ValueError(f"{path} holds no config{wrong}; {fix}")
    try:
        content = parse_yaml(read_text(path), path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a config ({error})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no config: {fix}")
    return dict(content)


class YamlError(yaml.YAMLError, ValueError):
    """What is wrong with a YAML text, with file and line, in one sentence."""


def parse_yaml(text: str, path: Any = "") -> Any:
    """What a YAML text says; as everywhere on the command line, where this is the loader.

    Raises:
        YamlError: at a slip, at a key that stands twice, and at aliases that stand for more than `ALIASED` values.
    """
    try:
        if ":" in text or "&" in text:
            node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            sizes: dict[int, int] = {}
            if node is not None and _size(node, sizes) > len(sizes) + ALIASED:
                raise ValueError("its aliases stand for a huge number of values: write them out")
        return _yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlError(f"{path}{_place(error, text)}".removeprefix(", ")) from error


def _place(error: Exception, text: str) -> str:
    """Line and column of an error of the YAML loader, and what is wrong there."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        tab = "\t" in [*text.split("\n"), ""][mark.line]
        fix = " (indent by spaces, not by tabs)" if tab else ""
        return f", line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}{fix}"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f", line {line}: the character {chr(int(error.character))!r} is not allowed"
    return f" cannot be read: {error}"


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node stands for with its aliases written out; `sizes` are of the nodes met so far."""
    if id(node) not in sizes:
        sizes[id(node)] = 2 * ALIASED  # for an alias inside of what it stands for
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        _refuse_twice([key for key, _ in pairs])
        children = [value for pair in pairs for value in pair] if pairs else node.value
        inner = children if isinstance(node, yaml.CollectionNode) else []
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in inner)
    return sizes[id(node)]


def _refuse_twice(keys: list[yaml.Node]) -> None:
    """Of two blocks under one key, YAML would drop the first in silence."""
    seen: dict[str, yaml.Node] = {}
    for key in keys:
        first = seen.setdefault(str(key.value), key)
        if first is not key and key.value != "<<":
            problem = f"the key {key.value!r} stands here again, first in line {first.start_mark.line + 1}: keep one"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)


set_loader("yaml", parse_yaml, (yaml.YAMLError,))


def one_sentence(error: Exception, flags: Sequence[str] = ()) -> str:
    """What is wrong and where, with the nearest valid name where a name is wrong.

    Args:
        error: from the parser or from a constructor.
        flags: every flag there is, for unknown ones.
    """
    report = str(error)
    place = ".".join(re.findall(r'Parser key "([\w.]+)"', report))
    if "Requirement 'wandb" in report:
        return "W&B is not installed: pip install wandb (the extra `wandb` of this package)"
    if found := _missing(report, place, flags) or _unknown(report, place, flags):
        return found
    if found := _expected(report) or _no_class(report):
        return f"{place}: {found}"
    leaves = [line.strip().removeprefix("- ") for line in report.splitlines()]
    leaf = next((line for line in leaves if not _FRAME.match(line)), [*report.splitlines(), ""][0])
    leaf = _PREFIX.sub("", re.sub(r'^Parser key "([\w.]+)": ', r"\1: ", leaf))
    return f"{place}: {leaf}" if place and not leaf.startswith(place) else leaf


def _missing(report: str, place: str, flags: Sequence[str]) -> str:
    """Which arguments must be given; empty if the report is about something else, as in the next functions."""
    if not (required := re.search(r"following arguments are required: (.+)", report)):
        return ""
    start = ", or start from a config, as in --config configs/demo.yaml" if "--config" in flags else ""
    missing = [f"--{place}.{name}" if place else f"--{name}" for name in required[1].split(", ")]
    return f"{' and '.join(missing)} must be given{start * (not place)}"


def _unknown(report: str, place: str, flags: Sequence[str]) -> str:
    """Which flag or option there is not, and the nearest one that there is."""
    classes = re.findall(r"(?:given class_path |class_path=)'([\w.]+)'", report)
    options = _arguments(classes[-1]) if classes else []
    if unknown := re.search(r"unrecognized arguments: (\S+)", report):
        flag = unknown[1].partition("=")[0]
        if place:  # the arguments of a class of its own
            flag, flags = f"--{place}.{flag[2:]}", [f"--{place}.{name}" for name in options]
        return f"there is no option {flag}{_suggest_flag(flag, flags)}"
    if option := re.search(r"Option '([\w.]+)' is not accepted", report):
        return f"{place or 'the config'} has no option {option[1]!r}{_suggest(option[1], options)}"
    return ""


def _expected(report: str) -> str:
    """Of a value of the wrong type, what was expected, unless that is a class."""
    block = report.rpartition("Errors:")[2].partition("Given value type")[0]  # of the innermost union, or the whole
    names = re.findall(r"Expected a <class '(?:[\w]+\.)*(?!NoneType)(\w+)'>", block)
    if values := re.findall(r"Expected a typing.Literal\[(.*?)\]", block):
        names.append(f"one of {', '.join(values)}")
    given = re.search(r"(?:Given value|Got value): (.*?)(\. Got value|$)", report[report.rfind(block) :], re.MULTILINE)
    kinds = dict.fromkeys(_KINDS.get(name, name) for name in names)
    return f"expected {' or '.join(kinds)}, got {given[1]}" if kinds and given else ""


def _no_class(report: str) -> str:
    """Which class there is not, or which is of another kind."""
    if not (name := re.search(r"Expected a dot import path string: (\S+)", report)):
        return ""
    known = _class_names()
    if name[1] in known:
        return f"{name[1]} is of another kind than what belongs there: name another class"
    return f"there is no class {name[1]!r}{_suggest(name[1], known)}"


def _suggest_flag(flag: str, flags: Iterable[str]) -> str:
    """The nearest flag, of which any part may be misspelled, as the end of a sentence."""
    known = {flag.rsplit(".", n)[0] for flag in flags for n in range(flag.count(".") + 1)}
    parts = flag.split(".")
    for n in range(1, len(parts) + 1):
        if ".".join(parts[:n]) not in known:
            rest = "".join(f".{part}" for part in parts[n:])
            return re.sub(r"\?$", f"{rest}?", found) if (found := _suggest(".".join(parts[:n]), known)) else ""
    return ""


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
