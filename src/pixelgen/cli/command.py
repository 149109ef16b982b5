"""One command line for every verb but `fit`, made of a function's signature and docstring."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import Parameter, cleandoc, signature
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import DocstringStyle, parse
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from pixelgen.config import one_sentence
from pixelgen.runs.run import Run
from pixelgen.samples.sampling import Sampling

T = TypeVar("T")


def command(
    function: Callable[..., T],
    report: Callable[[T], object] | None = None,
    opens: Callable[[str], Any] = Run,
    **texts: str,
) -> Callable[..., T]:
    """The `main` of a verb: parses its arguments, calls it, and tells of the result.

    Arguments without a default are positional, or required flags where they are keyword-only; all others are flags. A
    sequence takes one or more values, a tuple as many as it is long, and a switch none, or `true` or `false`. The
    fields of a parameter `sampling` are flags themselves, unless the function has an argument of that name, and
    `--sampler.guidance 2` without a class changes the sampler of the source. A `source` whose annotation names `Run`
    arrives opened. Errors are told in one sentence, and end with exit status 2.

    Args:
        function: the verb; its docstring is the help.
        report: called with the result, in the first process only.
        opens: opens the source.
        texts: `prog`, `description` or `epilog` of the help, if not those of the function.
    """

    def main(args: Sequence[str] | None = None) -> T:
        """Do what the command line says; see `--help`."""
        arguments = list(sys.argv[1:] if args is None else args)
        with stop_on_bad_input():
            result = function(**_parse(function, texts, arguments, opens))
        if report is not None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            report(result)
        return result

    main.__module__, main.__qualname__ = function.__module__, "main"  # for processes that are started with it
    return main


@contextmanager
def stop_on_bad_input() -> Iterator[None]:
    """Turn an error about the user's input into one line and exit status 2."""
    try:
        yield
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


@dataclass(frozen=True)
class _Argument:
    """A parameter of a function, or a field of its `sampling`."""

    name: str
    hints: tuple[Any, ...]  # the types that are possible, without None
    hint: Any
    default: Any
    is_flag: bool
    help: str

    def add_to(self, parser: ArgumentParser) -> None:
        """Add it to a parser."""
        options: dict[str, Any] = {"type": self.hint, "help": self.help}
        only = self.hints[0] if len(self.hints) == 1 else None
        if Run in self.hints:
            options["type"] = str
        elif only is bool:
            options |= {"type": bool, "nargs": "?", "const": True}
        elif get_origin(only) is tuple:
            options |= {"type": get_args(only)[0], "nargs": len(get_args(only))}
        elif get_origin(only) in (Sequence, list):
            options |= {"type": get_args(only)[0], "nargs": "+"}
        if self.default is not Parameter.empty:
            options["default"] = self.default
        elif self.is_flag:
            options["required"] = True
        parser.add_argument(f"--{self.name}" if self.is_flag else self.name, **options)

    def convert(self, value: Any, run: Run | None, opens: Callable[[str], Any]) -> Any:
        """What the function gets for a parsed value; `run` is the source, if it is open already."""
        if Run in self.hints:
            return run or opens(value)
        return tuple(value) if get_origin(self.hints[0]) is tuple and value is not None else value


def _arguments(function: Callable[..., Any]) -> list[_Argument]:
    """The parameters of a function, with the fields of `Sampling` in the place of that one."""
    hints = get_type_hints(function)
    texts = {
        found.arg_name: found.description or "" for found in parse(function.__doc__ or "", DocstringStyle.GOOGLE).params
    }
    arguments: list[_Argument] = []
    for name, parameter in signature(function).parameters.items():
        hint, default = hints[name], parameter.default
        if hint is Sampling:
            arguments += [argument for argument in _arguments(Sampling) if argument.name not in hints]
            continue
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kinds = tuple(kind for kind in kinds if kind is not NoneType)
        is_flag = default is not Parameter.empty or parameter.kind is Parameter.KEYWORD_ONLY
        arguments.append(_Argument(name, kinds, hint, default, is_flag, texts.get(name, "")))
    return arguments


def _parse(
    function: Callable[..., Any], texts: dict[str, str], given: Sequence[str], opens: Callable[[str], Any]
) -> dict[str, Any]:
    arguments, about = _arguments(function), cleandoc(function.__doc__ or "").partition("\nArgs:")[0]
    defaults: dict[str, Any] = {"prog": f"python -m pixelgen.{function.__name__}", "description": about}
    parser = ArgumentParser(**(defaults | texts), allow_abbrev=False, exit_on_error=False)
    for argument in arguments:
        argument.add_to(parser)
    try:
        run = _own_sampler(parser, given)
        found = parser.instantiate(parser.parse_args(given))
        options = {argument.name: argument.convert(found[argument.name], run, opens) for argument in arguments}
        own = signature(function).parameters
        if "sampling" in own:
            names = [field.name for field in fields(Sampling) if field.name not in own]
            options["sampling"] = Sampling(**{name: options.pop(name) for name in names})
    except (ArgumentError, ValueError) as error:
        if "arguments are required: source" in str(error):
            raise ValueError("say what to sample from: a run folder, a checkpoint or an export") from error
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(one_sentence(error, flags)) from error
    return options


def _own_sampler(parser: ArgumentParser, given: Sequence[str]) -> Run | None:
    """Let flags below `--sampler.` without a class change the sampler of the source; the other arguments tell it."""
    flags = [argument.partition("=")[0] for argument in given]
    if not any(flag.startswith("--sampler.") for flag in flags) or {"--sampler", "--sampler.help"} & {*flags}:
        return None
    others, waits = [], False  # whether a flag of the sampler waits for its value
    for argument in given:
        if not waits and not argument.startswith("--sampler."):
            others.append(argument)
        waits = not waits and argument.startswith("--sampler.") and "=" not in argument
    run = Run(parser.parse_args(others).source)
    parser.set_defaults(sampler=run.sampler)
    return run
