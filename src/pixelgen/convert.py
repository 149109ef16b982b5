"""`python -m pixelgen.convert published.ckpt`: a published checkpoint as an export of this library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser
from rich.console import Console

from pixelgen.cli.training import stop_on_bad_input
from pixelgen.runs.published import QWEN, denoiser_of, model_config
from pixelgen.runs.run import (
    average_name,
    denoiser_weights,
    find_weights,
    read_checkpoint,
    refuse_used,
    write_export,
)
from pixelgen.samples.sampling import Average

LICENCE = "Published weights are your own download and keep the licence that their authors gave them."


def convert(
    source: str | Path,
    to: str | Path | None = None,
    ema: Average = True,
    in_context_start: int | None = None,
    text_encoder: str = QWEN,
) -> Path:
    """Write one average of a published checkpoint of PixelGen or JiT as `model.safetensors`, and a `config.yaml`.

    `load` and `--init_from` take the folder as they take a run. The projector of REPA stays behind: where it is wanted,
    give the published file itself as `--init_from`.

    Args:
        source: the published file.
        to: folder to write into; named after the file if None.
        ema: True for the first average of the weights (raw if there is none), False or `raw` for raw weights, or the
            name of an average: PixelGen's is `ema`, JiT's are `ema1` and `ema2`.
        in_context_start: block before which the class tokens enter; needed for sizes that were never published.
        text_encoder: folder or hub repository of the text encoder, for a network that takes prompts; it is not
            converted, `load` reads it from there.

    Returns:
        The file of weights.

    Raises:
        ValueError: if the file is not a published checkpoint, or the folder holds an export or config already or cannot
            be written.
    """
    path = find_weights(source)
    checkpoint = read_checkpoint(path)
    if "published" not in checkpoint:
        raise ValueError(f"{path} is not a published checkpoint: python -m pixelgen.export takes what was trained here")
    folder = path.with_suffix("") if to is None else Path(to)
    refuse_used(folder)
    name = average_name(checkpoint, ema)
    weights = denoiser_weights(checkpoint, name)
    config = model_config(weights, checkpoint["published"], in_context_start, text_encoder)
    text = f"# {name} of {path.name}, converted. {LICENCE}\n{yaml.safe_dump({'model': config}, sort_keys=False)}"
    denoiser = denoiser_of(weights, path, in_context_start)
    step = checkpoint["global_step"]
    return write_export(folder, denoiser.state_dict(), name, step, lambda target: target.write_text(text))


def main(args: Sequence[str] | None = None) -> Path:
    """Convert as the options say; see `python -m pixelgen.convert --help`."""
    parser = ArgumentParser(prog="python -m pixelgen.convert", description=LICENCE, allow_abbrev=False)
    parser.add_function_arguments(convert, as_positional=True)
    with stop_on_bad_input():
        path = convert(**parser.parse_args(args))
    Console().print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, and config.yaml beside it", soft_wrap=True)
    return path


if __name__ == "__main__":
    main()
