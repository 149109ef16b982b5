"""One command line for every verb but `fit`, made of a function's signature and docstring."""

import os
import re
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import DocstringStyle, parse
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

import pixelgen
from pixelgen.config import one_sentence
from pixelgen.runs.run import Run
from pixelgen.samples.sampling import Sampling
from pixelgen.text import guard_terminal, plain

T = TypeVar("T")
TRUST = "build whatever the config of the source names, also classes outside of pixelgen, torch and lightning"


def command(
    function: Callable[..., T],
    report: Callable[[T], object] | None = None,
    opens: Callable[[str, bool], Any] = Run,
    **texts: str,
) -> Callable[..., T]:
    """The `main` of a verb: parses its arguments, calls it, and tells of the result.

    Arguments without a default are positional, or required flags where they are keyword-only; all others are flags. A
    sequence takes one or more values, a tuple as many as it is long, and a switch none, or `true` or `false`. The
    fields of a parameter `sampling` are flags themselves, unless the function has an argument of that name, and
    `--sampler.guidance 2` without a class changes the sampler of the source. A `source` whose annotation names `Run`
    arrives opened, with `--trust` whatever its config names. Errors are told in one sentence with exit status 2.

    Args:
        function: the verb; its docstring is the help.
        report: called with the result, in the first process only.
        opens: opens the source, trusted or not.
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
    """Turn an error about the user's input into one line and exit status 2, and Ctrl-C into one word and 130.

    One that code of the user's own has a part in stays as it is, with its traceback; of others, those about values,
    files, missing packages, the trainer's options and too little memory are told.
    """
    guard_terminal()
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError, MisconfigurationException, RuntimeError) as error:
        full = isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error))
        if (isinstance(error, RuntimeError) and not full) or _of_user(error):
            raise
        sentence = "there is too little memory: lower batch_size, or the size of images or network" if full else error
        sys.stderr.write(f"error: {plain(' '.join(str(sentence).split()))}\n")
        raise SystemExit(2) from error
    except KeyboardInterrupt as stop:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from stop


def _of_user(error: BaseException) -> bool:
    """Whether code was called that is neither installed nor of this package."""
    known = (str(Path(pixelgen.__file__).parent), sys.prefix, sys.base_prefix, "<")
    return any(not frame.filename.startswith(known) for frame in traceback.extract_tb(error.__traceback__))


def _parse(
    function: Callable[..., Any], texts: dict[str, str], given: Sequence[str], opens: Callable[[str, bool], Any]
) -> dict[str, Any]:
    """What the function is called with."""
    about = cleandoc(function.__doc__ or "").partition("\nArgs:")[0]
    defaults: dict[str, Any] = {"prog": f"python -m pixelgen.{function.__name__}", "description": about}
    parser = ArgumentParser(**(defaults | texts), allow_abbrev=False, exit_on_error=False)
    kinds = _add_arguments(parser, function)
    if any(Run in kind for kind in kinds.values()):
        parser.add_argument("--trust", help=TRUST, **_options((bool,)), default=False)
    try:
        run = _own_sampler(parser, given)
        found = parser.instantiate(parser.parse_args(given))
        options = {name: found[name] for name in kinds}
        for name, kind in kinds.items():
            if Run in kind:
                options[name] = run or opens(options[name], found.trust)
            elif get_origin(kind[0]) is tuple and options[name] is not None:
                options[name] = tuple(options[name])
            elif Path in kind and options[name] is not None:
                options[name] = type(options[name])(os.path.expanduser(options[name]))
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


def _add_arguments(
    parser: ArgumentParser, function: Callable[..., Any], others: Collection[str] = ()
) -> dict[str, tuple[Any, ...]]:
    """Add the parameters of a function but `others`, with the fields of `Sampling` in the place of that one.

    Returns:
        The types that each of them can have, without None.
    """
    hints, described = get_type_hints(function), parse(function.__doc__ or "", DocstringStyle.GOOGLE).params
    texts = {argument.arg_name: argument.description or "" for argument in described}
    found: dict[str, tuple[Any, ...]] = {}
    for name, parameter in signature(function).parameters.items():
        hint = hints[name]
        if hint is Sampling:
            found |= _add_arguments(parser, Sampling, others=hints)
        elif name not in others:
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            found[name] = tuple(kind for kind in kinds if kind is not NoneType)
            options = {"type": hint, "help": texts.get(name, "")} | _options(found[name])
            is_flag = parameter.default is not Parameter.empty or parameter.kind is Parameter.KEYWORD_ONLY
            if parameter.default is not Parameter.empty:
                options["default"] = parameter.default
            elif is_flag:
                options["required"] = True
            parser.add_argument(f"--{name}" if is_flag else name, **options)
    return found


def _options(kinds: tuple[Any, ...]) -> dict[str, Any]:
    """How values of a type are parsed, where the parser would take them otherwise."""
    if Run in kinds:
        return {"type": str}
    if kinds == (bool,):
        return {"type": bool, "nargs": "?", "const": True}
    origin, inner = get_origin(kinds[0]), get_args(kinds[0])
    if len(kinds) > 1 or origin not in (tuple, Sequence, list):
        return {}
    return {"type": inner[0], "nargs": len(inner) if origin is tuple else "+"}


def _own_sampler(parser: ArgumentParser, given: Sequence[str]) -> Run | None:
    """Let flags below `--sampler.` without a class change the sampler of the source; the other arguments tell it."""
    flags = [argument.partition("=")[0] for argument in given]
    if not any(flag.startswith("--sampler.") for flag in flags) or {"--sampler", "--sampler.help"} & {*flags}:
        return None
    others, rest = [], iter(given)
    for argument in rest:
        if not argument.startswith("--sampler."):
            others.append(argument)
        elif "=" not in argument:
            next(rest, None)  # its value
    options = parser.parse_args(others)
    run = Run(options.source, options.trust)
    parser.set_defaults(sampler=run.sampler)
    return run
