"""`python -m pixelgen.export runs/demo`: one average of a run as a small file, with its config beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from pixelgen.cli.training import stop_on_bad_input
from pixelgen.runs.run import export


def main(args: Sequence[str] | None = None) -> Path:
    """Export as the options say; see `python -m pixelgen.export --help`."""
    parser = ArgumentParser(prog="python -m pixelgen.export", allow_abbrev=False)
    parser.add_function_arguments(export, as_positional=True)
    with stop_on_bad_input():
        path = export(**parser.parse_args(args))
    Console().print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, and config.yaml beside it", soft_wrap=True)
    return path


if __name__ == "__main__":
    main()
