"""`python -m pixelgen.evaluate runs/demo --reference images`: FID and its relatives, with their protocol."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.fabric.utilities import rank_zero_only
from rich.console import Console
from torch.utils.data import Dataset

from pixelgen.cli.command import stop_on_bad_input
from pixelgen.cli.former import FLAGS, add_flags, parse
from pixelgen.config import one_sentence
from pixelgen.data import ImageData
from pixelgen.data.images import Item
from pixelgen.data.sets import open_images
from pixelgen.distributed.processes import Precision, launch
from pixelgen.encoders import DINOv2Features, FeatureExtractor  # noqa: F401, the command line finds it by name
from pixelgen.encoders.inception import Inception
from pixelgen.evaluation import protocol
from pixelgen.evaluation.extract import ONLY_FRECHET, Metrics, warn_of_few
from pixelgen.evaluation.measure import Scores, Work, check_reference, expect_inception, scores_file
from pixelgen.evaluation.reference import refuse_stream, spread
from pixelgen.evaluation.statistics import Statistics
from pixelgen.flow import Sampler
from pixelgen.runs.run import find_weights
from pixelgen.sample import sample
from pixelgen.samples.sampling import Average, Sampling

ALL_POSSIBLE = Metrics()
PUBLISHED = 50_000  # images that published FIDs are computed from


def evaluate(
    source: str | Path,
    reference: str | Path,
    extractor: FeatureExtractor | None = None,
    metrics: Metrics = ALL_POSSIBLE,
    dinov2: FeatureExtractor | None = None,
    dinov2_reference: str | Path | None = None,
    num_images: int | None = None,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    sampler: Sampler | None = None,
    ema: Average = True,
    precision: Precision = "bf16-mixed",
    batch_size: int = 64,
    num_workers: int = 4,
    skip_corrupt: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    to: str | Path | None = None,
    compile: bool = False,
) -> dict[str, float]:
    """Score images against a reference: Fréchet distances, Inception Score, precision, recall, KID.

    Of a run, checkpoint or export, images are made first, as `python -m pixelgen.sample` makes them. Scores and all
    that they depend on are added to `evaluation.json` beside the images. A folder as reference is measured anew each
    time: `python -m pixelgen.evaluate reference` writes its statistics once.

    Args:
        source: run folder, checkpoint or export; or a folder of images, or an npz with `arr_0`.
        reference: npz of ADM, of JiT, or of `evaluate reference`; an npz with `arr_0`; or a folder of images, which are
            centre-cropped to the size of the others.
        extractor: what images are seen with; Inception, as FID means it, if not given.
        metrics: what to compute beside the Fréchet distance.
        dinov2: a second extractor, in the same pass over the images: `DINOv2Features` for FD-DINOv2.
        dinov2_reference: its reference, where `reference` is an npz without images.
        num_images: how many to make (50 000 if not given), or to take of those that are there (all).
        prompts: for a text model, as `sample` takes them.
        seed: of the first image to make.
        sampler: as `sample` takes it.
        ema: as `sample` takes it.
        precision: of making images; features are always computed in float32.
        batch_size: images at a time.
        num_workers: processes that read images, for each device; no more than there are cores.
        skip_corrupt: leave out unreadable images, which are refused otherwise.
        devices: processes on this machine, one for each GPU, or on the CPU.
        num_nodes: machines.
        to: the JSON file, if not beside the images.
        compile: compile the blocks of the network before images are made, as `sample` does.

    Returns:
        Each score by its name.

    Raises:
        ValueError: in a sentence, naming what is wrong with the arguments, the images or the reference.
    """
    images = is_images(source)
    if images and (sampler is not None or prompts is not None or compile):
        raise ValueError(f"the images in {source} are made already: leave out the sampler, prompts and compile")
    if extractor is None:
        expect_inception(Path(reference))
    seers = [part for part in (extractor or Inception(), dinov2) if part is not None]
    references = [Path(reference), Path(dinov2_reference or reference)]
    for path, seer in zip(references, seers, strict=False):
        check_reference(path, seer, ONLY_FRECHET if images else metrics, num_images or PUBLISHED)
    fabric = launch(devices, precision, num_nodes)
    if not images:
        num_images = num_images or PUBLISHED
        sampling = Sampling(sampler, ema, None, seed, "", precision, batch_size, devices, num_nodes, compile)
        source = sample(source, num_images=num_images, prompts=prompts, sampling=sampling)
    work = Work(fabric, metrics, batch_size, num_workers, skip_corrupt)
    scores = work.scores(Path(source), num_images, [seer.to(fabric.device) for seer in seers], references)
    if fabric.global_rank == 0:
        protocol.add(scores_file(source) if to is None else Path(to), scores, scores.protocol)
    fabric.barrier()
    return scores


def is_images(source: str | Path) -> bool:
    """Whether a path is a folder or an npz of images, and nothing that holds weights.

    Raises:
        ValueError: if it does not exist.
    """
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{path} does not exist: give a run, a checkpoint, an export, a folder of images or an npz")
    if path.suffix == ".npz":
        return True
    if path.is_file():
        return False
    try:
        find_weights(path)
    except ValueError:
        if (path / "config.yaml").exists():
            raise
        return True
    return False


# --- statistics of real images


def write_reference(
    source: str | Path | None = None,
    to: str | Path = "reference.npz",
    data: ImageData | None = None,
    extractor: FeatureExtractor | None = None,
    metrics: Metrics = ALL_POSSIBLE,
    image_size: int | None = None,
    num_images: int | None = None,
    batch_size: int = 64,
    num_workers: int = 4,
    skip_corrupt: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
) -> Path:
    """Measure real images once, for `evaluate` to compare with.

    The npz has `mu` and `sigma`, with Inception also `mu_s` and `sigma_s`, as other tools read them; and `features` of
    some images, drawn by a seed, for precision, recall and KID.

    Args:
        source: a folder of images, or an npz with `arr_0`.
        to: the npz to write.
        data: a data module, instead of a folder: its training images; `--config FILE` takes the one of a config.
        extractor: what images are seen with; Inception if not given.
        metrics: what the file will be needed for.
        image_size: side of centre crops in pixels, as in ADM; images must have one size if not given.
        num_images: how many to take, evenly spaced; all if not given.
        batch_size: images at a time.
        num_workers: processes that read images, for each device; no more than there are cores.
        skip_corrupt: leave out unreadable images, which are refused otherwise.
        devices: processes on this machine, one for each GPU, or on the CPU.
        num_nodes: machines.

    Returns:
        The file.

    Raises:
        ValueError: in a sentence, naming what is wrong with the images.
    """
    if (source is None) == (data is None):
        raise ValueError("give either a folder or npz of images, or a data module with --data or --config")
    images = _training_images(data) if data is not None else open_images(str(source), image_size)
    fabric = launch(devices, "32-true", num_nodes)
    seer = (extractor or Inception()).to(fabric.device)
    chosen = spread(images, num_images)
    warn_of_few(len(chosen), seer)
    statistics = Work(fabric, metrics, batch_size, num_workers, skip_corrupt).measure(images, chosen, seer)
    if fabric.global_rank == 0:
        statistics.save(Path(to))
    fabric.barrier()
    return Path(to)


def _training_images(data: ImageData) -> Dataset[Item]:
    data.setup("fit")
    dataset = data.train_dataset()
    refuse_stream(dataset)
    return dataset


# --- command line


def main(args: Sequence[str] | None = None) -> Path:
    """Evaluate, or write statistics with `reference` as the first argument; `--help` lists the options of either."""
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:1] == ["reference"]:
        return _main_reference(arguments[1:])
    parser = _parser("evaluate", evaluate, {"reference", "prompts", "compile"})
    parser.add_argument("--reference", required=True, help="an npz of statistics or images, or a folder of images")
    parser.add_argument("--prompts", nargs="+", help="for a text model: one or more, or a text file with one a line")
    add_flags(parser, {"compile": FLAGS["compile"]})
    with stop_on_bad_input():
        options = parse(parser, arguments)
        scores = evaluate(**options)
    assert isinstance(scores, Scores)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        protocol.show(scores, scores.protocol)
    return Path(scores.protocol["source"])


def _main_reference(arguments: Sequence[str]) -> Path:
    parser = _parser("evaluate reference", write_reference, {"source", "to"})
    parser.add_argument("source", nargs="?", help="a folder of images, or an npz with arr_0")
    parser.add_argument("--to", required=True, help="the npz to write")
    parser.add_argument("--config", help="a config or the config.yaml of a run, whose data section is taken")
    with stop_on_bad_input():
        path = write_reference(**_parse_reference(parser, arguments))
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        found = Statistics.load(path)
        Console().print(
            f"{path}: {found.n} images, {found.extractor}, weights {(found.weights_sha256 or 'unknown')[:16]}, "
            f"hash {found.fingerprint}",
            soft_wrap=True,
        )
    return path


def _parser(name: str, function: Callable[..., Any], by_hand: set[str | int]) -> ArgumentParser:
    parser = ArgumentParser(prog=f"python -m pixelgen.{name}", allow_abbrev=False, exit_on_error=False)
    parser.add_function_arguments(function, as_positional=True, skip=by_hand)
    return parser


def _parse_reference(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Arguments of `reference`; the data section of a config comes first, flags below `--data.` change it.

    Raises:
        ValueError: in one sentence.
    """
    try:
        config, others = _split(arguments, "--config")
        data = [f"--data={json.dumps(_data_section(Path(config)))}"] if config else []
        options = vars(parser.instantiate(parser.parse_args([*data, *others])))
    except (ArgumentError, ValueError, OSError) as error:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(one_sentence(error, flags)) from error
    del options["config"]
    return options


def _data_section(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        section: dict[str, Any] = config["data"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has no section `data` ({type(error).__name__}): give the config of a run") from error
    return section


def _split(arguments: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag, and all other arguments."""
    others = list(arguments)
    for i, argument in enumerate(others):
        if argument.startswith(f"{flag}="):
            return others.pop(i).partition("=")[2], others
        if argument == flag and i + 1 < len(others):
            return others[i + 1], others[:i] + others[i + 2 :]
    return None, others


if __name__ == "__main__":
    main()
