"""Parsing of the verbs that are not on `pixelgen.cli.command` yet; goes with the last of them."""

from __future__ import annotations

import json
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from pixelgen.config import one_sentence
from pixelgen.runs.run import Run

# arguments that read better on a command line than the parser would have them
FLAGS: dict[str, dict[str, Any]] = {
    "classes": {"nargs": "+", "help": "numbers, ranges such as 10-19, or names; all if not given"},
    "prompts": {"nargs": "+", "help": "for a text model: one or more, or a text file with one a line"},
    "size": {"nargs": 2, "type": int, "metavar": ("HEIGHT", "WIDTH"), "help": "the training size if not given"},
    "compile": {"action": "store_true", "help": "compile the blocks of the network first, which takes a minute"},
}


def add_flags(parser: ArgumentParser, flags: Mapping[str, Mapping[str, Any]]) -> None:
    """Add arguments by hand."""
    for name, options in flags.items():
        parser.add_argument(f"--{name}", **options)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Arguments of a command on a `source`: flags below `--sampler.` alone change the sampler that it comes with.

    Raises:
        ValueError: in one sentence.
    """
    try:
        given, others = split_sampler(arguments)
        if given and "--sampler" not in [flag.partition("=")[0] for flag in given]:
            own = Run(parser.parse_args(others).source).sampler
            given = [f"--sampler={json.dumps(own)}", *given]
        options = vars(parser.instantiate(parser.parse_args([*others, *given])))
    except (ArgumentError, ValueError) as error:
        if "arguments are required: source" in str(error):
            raise ValueError("say what to sample from: a run folder, a checkpoint or an export") from error
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(one_sentence(error, flags)) from error
    if options.get("size") is not None:
        options["size"] = tuple(options["size"])
    return options


def split_sampler(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of the sampler with their values, and all other arguments."""
    sampler: list[str] = []
    others: list[str] = []
    waits = False  # whether a flag of the sampler waits for its value
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        if waits or flag == "--sampler" or flag.startswith("--sampler."):
            sampler.append(argument)
            waits = not waits and not equals
        else:
            others.append(argument)
    return sampler, others
