"""`python -m pixelgen.convert published.ckpt`: a published checkpoint as an export of this library."""

from pathlib import Path

import yaml

from pixelgen.checks import FROM_ZERO, checked
from pixelgen.cli.command import command
from pixelgen.runs.checkpoints import refuse_used, write_export
from pixelgen.runs.published import denoiser_of, model_config
from pixelgen.runs.run import Run
from pixelgen.samples.sampling import Average
from pixelgen.text import say

LICENCE = "Published weights are your own download and keep the licence that their authors gave them."


@checked(in_context_start=FROM_ZERO)
def convert(
    source: str | Path | Run,
    to: str | Path | None = None,
    ema: Average = True,
    in_context_start: int | None = None,
    text_encoder: str | None = None,
) -> Path:
    """Write one EMA of a published checkpoint of PixelGen or JiT as `model.safetensors`, and a `config.yaml`.

    `load` and `--init_from` take the folder as they take a run. The projector of REPA stays behind: where it is wanted,
    give the published file itself as `--init_from`.

    Args:
        source: the published file.
        to: folder to write into, without an export or config in it; named after the file if not given.
        ema: true for the first EMA (raw weights if there is none), `raw` or false for the raw weights, or the name of
            an EMA: PixelGen's is `ema`, JiT's are `ema1` and `ema2`.
        in_context_start: block before which the class tokens enter; needed for sizes that were never published.
        text_encoder: folder or hub repository of the text encoder, for a network that takes prompts; it is not
            converted, `load` reads it from there. The published one, Qwen3-1.7B, if not given.

    Returns:
        The file of weights.
    """
    run = Run.open(source)
    recipe = run.contents.recipe
    if recipe is None:
        raise ValueError(
            f"{run.path} is not a published checkpoint: python -m pixelgen.export takes what was trained here"
        )
    folder = run.path.with_suffix("") if to is None else Path(to).expanduser()
    refuse_used(folder)
    weights, identity = run.weights(ema), run.identity(ema)
    config = model_config(weights, recipe, in_context_start, text_encoder)
    comment = f"# {identity['average']} of {run.path.name}, converted. {LICENCE}\n"
    text = comment + yaml.safe_dump({"model": config}, sort_keys=False)
    weights = denoiser_of(config, weights, run.path).state_dict()
    return write_export(folder, weights, identity, text, run.class_names)


def _report(path: Path) -> None:
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, and config.yaml beside it")


main = command(convert, _report, epilog=LICENCE)

if __name__ == "__main__":
    main()
