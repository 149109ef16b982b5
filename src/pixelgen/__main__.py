"""`pixelgen sample runs/demo`: every verb of the package, as `python -m pixelgen.sample runs/demo` has it."""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

VERBS = ("fit", "sample", "evaluate", "sweep", "geneval", "dpg", "encode", "export", "convert")


def main(args: Sequence[str] | None = None) -> None:
    """Call the verb that comes first, with the other arguments; it is imported only now."""
    verb, *arguments = [*(sys.argv[1:] if args is None else args)] or [""]
    if verb in VERBS:
        import_module(f"pixelgen.{verb}").main(arguments)
    elif verb in ("", "-h", "--help"):
        sys.stdout.write(usage())
    else:
        sys.stderr.write(f"error: there is no verb {verb!r}: choose one of {', '.join(VERBS)}\n")
        raise SystemExit(2)


def usage() -> str:
    """The verbs, with the first line of each module's docstring, which is read and not run."""
    folder = Path(__file__).parent
    lines = []
    for verb in VERBS:
        text = ast.get_docstring(ast.parse((folder / f"{verb}.py").read_text(encoding="utf-8"))) or ""
        lines.append(f"  {verb:9}{text.splitlines()[0]}\n")
    return f"usage: pixelgen VERB ...; pixelgen VERB --help lists the options of one\n\n{''.join(lines)}"


if __name__ == "__main__":
    main()
