"""`python -m pixelgen.export runs/demo`: one EMA of a run as a small file, with its config beside it."""

from pathlib import Path

from rich.console import Console

from pixelgen.checks import checked
from pixelgen.cli.command import command
from pixelgen.runs.checkpoints import refuse_used, write_export
from pixelgen.runs.run import Run
from pixelgen.samples.sampling import Average


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
    folder = run.folder / "export" if to is None else Path(to)
    refuse_used(folder)
    weights = run.denoiser(ema).state_dict()
    config = (run.folder / "config.yaml").read_text(encoding="utf-8")
    return write_export(folder, weights, run.identity(ema), config, run.class_names)


def _report(path: Path) -> None:
    Console().print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, and config.yaml beside it", soft_wrap=True)


main = command(export, _report)

if __name__ == "__main__":
    main()
