"""`python -m pixelgen.export runs/demo`: one EMA of a run as a small file, with its config beside it."""

from pathlib import Path

import yaml

from pixelgen.checks import checked
from pixelgen.cli.command import command
from pixelgen.config import read_yaml
from pixelgen.files import read_text
from pixelgen.runs.checkpoints import refuse_used, write_export
from pixelgen.runs.run import Run
from pixelgen.samples.sampling import Average
from pixelgen.text import public, say


@checked()
def export(source: str | Path | Run, to: str | Path | None = None, ema: Average = True) -> Path:
    """Write one EMA of a run, float32, as `model.safetensors`, and the run's `config.yaml` beside it.

    `load` and `--init_from` take the folder as they take a run. Optimizer, other EMAs and losses stay behind.

    Args:
        source: run folder, or a checkpoint in one.
        to: folder to write into, without an export or config in it; `export` in the run folder if not given.
        ema: true for the first EMA (raw weights if there is none), `raw` or false for the raw weights, or the decay or
            name of an EMA; `width0.07` is computed from the EMAs by width that the checkpoints of the run hold.

    Returns:
        The file of weights.
    """
    run = Run.open(source)
    if run.published:
        raise ValueError(f"{run.path} is a published checkpoint, not one of a run: python -m pixelgen.convert takes it")
    folder = run.folder / "export" if to is None else Path(to).expanduser()
    refuse_used(folder)
    weights = run.denoiser(ema).state_dict()
    config = read_text(path := run.folder / "config.yaml")
    if public(content := read_yaml(path)) != content:
        config = yaml.safe_dump(public(content), sort_keys=False)
    return write_export(folder, weights, run.identity(ema), config, run.class_names)


def _report(path: Path) -> None:
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, and config.yaml beside it")


main = command(export, _report)

if __name__ == "__main__":
    main()
