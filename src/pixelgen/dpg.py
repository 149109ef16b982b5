"""`python -m pixelgen.dpg runs/text prompts`: images for DPG-Bench (arXiv 2403.05135), which scores them elsewhere."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from lightning.fabric.utilities.rank_zero import rank_zero_only
from PIL import Image
from rich.console import Console
from rich.progress import track

from pixelgen.cli.command import stop_on_bad_input
from pixelgen.cli.former import add_flags, parse
from pixelgen.distributed.processes import Precision, agree, launch
from pixelgen.flow import Sampler
from pixelgen.prompted import FLAGS, Manner, make_prompted
from pixelgen.samples.sampling import Average

IMAGES = 4
"""Of each prompt, in two rows of two."""


def dpg(
    source: str | Path,
    prompts: Path,
    to: str | Path | None = None,
    seed: int = 0,
    negative: str = "",
    sampler: Sampler | None = None,
    ema: Average = True,
    size: tuple[int, int] | None = None,
    precision: Precision = "bf16-mixed",
    batch_size: int = 64,
    devices: int = 1,
    num_nodes: int = 1,
) -> Path:
    """Make the images of DPG-Bench with a text model: `grids/<prompt file's name>.png`, four images in two rows of two.

    Scoring is not part of this: it needs mPLUG and lives with the benchmark. Give its script the folder `grids` as
    --image-root-path, the height of one image as --resolution, and --pic-num 4. The single images are in `images`.
    The same command goes on where it was stopped.

    Args:
        source: run folder, checkpoint or export of a text model.
        prompts: the benchmark's folder with one text file for each prompt.
        to: folder to write into; `dpg/<average, step, sampler and a hash of all settings>` in the run if not given.
        seed: of the first of the four images of every prompt.
        negative: prompt that guidance leads away from.
        sampler: another than the model's own; its settings without a class change those of the model's own.
        ema: true for the first average of the weights, `raw`, or the decay or name of an average.
        size: height and width in pixels; the training size if not given.
        precision: of matrix products.
        batch_size: images between two looks at the clock and the disk.
        devices: processes on this machine, one for each GPU, or on the CPU.
        num_nodes: machines.

    Returns:
        The folder of the grids.

    Raises:
        ValueError: naming what is wrong with the arguments, the source or a folder.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}: give one from 0")
    texts = read_texts(prompts)
    names = list(texts)
    fabric = launch(devices, precision, num_nodes)
    digest = hashlib.sha256("\0".join(part for item in texts.items() for part in item).encode()).hexdigest()
    folder = make_prompted(
        source,
        list(texts.values()),
        range(seed, seed + IMAGES),
        lambda i, s: image_path(names[i], s),
        {"prompts": len(texts), "prompts_sha256": digest},
        Manner(negative, sampler, ema, size, precision, batch_size),
        fabric,
        lambda home, name: home / "dpg" / name if to is None else Path(to),
    )
    with agree(fabric):
        share = names[fabric.global_rank :: fabric.world_size]
        for name in track(share, "grids", disable=fabric.global_rank != 0):
            write_grid(folder, name, range(seed, seed + IMAGES))
    return folder / "grids"


def read_texts(folder: Path) -> Mapping[str, str]:
    """Prompts by the names of their files, sorted.

    Raises:
        ValueError: if there are none, or one is empty or no text.
    """
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise ValueError(f"{folder} holds no prompts: give a folder with one text file (*.txt) for each")
    texts = {}
    for path in files:
        try:
            texts[path.stem] = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as text ({error})") from error
        if not texts[path.stem]:
            raise ValueError(f"{path} is empty: write a prompt into it or delete it")
    return texts


def image_path(name: str, seed: int) -> str:
    """Where one image of a prompt lies, relative to the folder."""
    return f"images/{name}/{seed:04d}.png"


def write_grid(folder: Path, name: str, seeds: Sequence[int]) -> None:
    """Put the four images of a prompt into one, row by row, without lines between them."""
    path = folder / "grids" / f"{name}.png"
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        images = [Image.open(folder / image_path(name, seed)) for seed in seeds]
        width, height = images[0].size
        grid = Image.new("RGB", (2 * width, 2 * height))
        for i, image in enumerate(images):
            with image:
                grid.paste(image, (i % 2 * width, i // 2 * height))
        path.parent.mkdir(parents=True, exist_ok=True)
        grid.save(unfinished, "PNG")
        unfinished.replace(path)
    except OSError as error:
        raise ValueError(f"could not write {path} ({error}): free some space, then the same command goes on") from error


# --- command line


def main(args: Sequence[str] | None = None) -> Path:
    """Make the images as the options say; see `python -m pixelgen.dpg --help`."""
    about = (
        "Make DPG-Bench's images, a grid of four for each prompt. Scoring is not part of this: its own script does it."
    )
    parser = ArgumentParser(prog="python -m pixelgen.dpg", description=about, allow_abbrev=False, exit_on_error=False)
    parser.add_function_arguments(dpg, as_positional=True, skip={*FLAGS})
    add_flags(parser, FLAGS)
    with stop_on_bad_input():
        folder = dpg(**parse(parser, sys.argv[1:] if args is None else args))
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    Console(quiet=rank != 0).print(f"{folder}: to be scored by DPG-Bench's own script", soft_wrap=True)
    return folder


if __name__ == "__main__":
    main()
