"""`python -m pixelgen.fit --config …`: train a model, or resume a run."""

from collections.abc import Sequence

from pixelgen.cli.command import stop_on_bad_input
from pixelgen.cli.training import CLI


def main(args: Sequence[str] | None = None) -> CLI:
    """Train as the config says; see `python -m pixelgen.fit --help`."""
    with stop_on_bad_input():
        cli = CLI(args)
        cli.fit()
    return cli


if __name__ == "__main__":
    main()
