"""`python -m pixelgen.evaluate runs/demo --reference images`: FID and its relatives, with their protocol."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from pixelgen.checks import COUNT, FROM_ZERO, Range, checked
from pixelgen.cli.command import command, stop_on_bad_input
from pixelgen.config import read_yaml
from pixelgen.data import ImageData
from pixelgen.data.folder import EXTENSIONS
from pixelgen.data.images import Item
from pixelgen.distributed.processes import agree, launch
from pixelgen.encoders import DINOv2Features, FeatureExtractor  # noqa: F401, the command line finds it by name
from pixelgen.encoders.inception import Inception
from pixelgen.evaluation.extract import EvaluationJob, choose
from pixelgen.evaluation.images import open_images
from pixelgen.evaluation.protocol import PROTOCOLS, Protocol
from pixelgen.evaluation.reference import Reference
from pixelgen.evaluation.score_set import (
    UNKNOWN,
    Scores,
    add_scores,
    check_scores_file,
    print_scores,
    score_set,
    scores_file,
    settings_of_set,
)
from pixelgen.evaluation.scores import ONLY_FRECHET, Metrics, warn_of_few
from pixelgen.evaluation.statistics import Statistics
from pixelgen.files import refuse_unwritable
from pixelgen.module import PixelGen
from pixelgen.runs.checkpoints import find_weights, holds_weights
from pixelgen.runs.run import Run
from pixelgen.runs.trust import refuse_foreign
from pixelgen.sample import open_model, sample_with
from pixelgen.samples.sampling import Sampling
from pixelgen.text import say

ALL_POSSIBLE = Metrics()
PUBLISHED = 50_000  # images that published FIDs are computed from


@checked(num_images=Range(2), num_workers=FROM_ZERO)
def evaluate(
    source: str | Path | Run,
    *,
    reference: str | Path,
    protocol: Literal["adm", "jit"] | None = None,
    extractor: FeatureExtractor | None = None,
    metrics: Metrics = ALL_POSSIBLE,
    dinov2: FeatureExtractor | None = None,
    dinov2_reference: str | Path | None = None,
    num_images: int | None = None,
    prompts: Sequence[str] | None = None,
    num_workers: int = 4,
    skip_corrupt: bool = False,
    upright: bool = True,
    to: str | Path | None = None,
    sampling: Sampling = Sampling(),
) -> Scores:
    """Score images against a reference: Fréchet distances, Inception Score, precision, recall, KID.

    Images of a run, checkpoint or export are generated first, as `python -m pixelgen.sample` does it. Scores and all
    that they depend on are added to `evaluation.json` beside the images. A folder as reference is measured anew each
    time: `python -m pixelgen.evaluate reference` writes its statistics once.

    Args:
        source: run folder, checkpoint or export; or a folder of images, or an npz with `arr_0`.
        reference: npz of ADM, of JiT, or of `evaluate reference`; an npz with `arr_0`; or a folder of images, which are
            centre-cropped to the size of the others.
        protocol: of published numbers, which fixes all that they depend on and refuses anything else: `adm` for FID,
            sFID, Inception Score, precision and recall with ADM's npz, `jit` for FID and Inception Score with JiT's.
        extractor: of the features; Inception, as FID means it, if not given.
        metrics: what to compute beside the Fréchet distance.
        dinov2: a second extractor, in the same pass over the images: `DINOv2Features` for FD-DINOv2.
        dinov2_reference: its reference, where `reference` is an npz without images.
        num_images: how many to generate (50 000 if not given), or to take of those that are there (all): the first
            ones of a set of `pixelgen.sample`, evenly spaced ones of others.
        prompts: for a text model, as `sample` takes them.
        num_workers: processes that read images, for each device; no more than there are cores.
        skip_corrupt: leave out unreadable images, which are refused otherwise.
        upright: turn photographs as their EXIF orientation asks for, as training on one's own images does by default.
        to: the JSON file, if not beside the images.
        sampling: how images are generated; features are always computed in float32.

    Returns:
        Each score by its name, with all that they depend on as `protocol`.

    Raises:
        ValueError: in a sentence, naming what is wrong with the arguments, the images or the reference.
    """
    images, to = not isinstance(source, Run) and is_images(source), None if to is None else Path(to).expanduser()
    if images and (sampling.sampler is not None or prompts is not None or sampling.compile or sampling.random_classes):
        raise ValueError(
            f"the images in {source} are made already: leave out the sampler, prompts, random_classes and compile"
        )
    fixed, given = PROTOCOLS.get(protocol or ""), Reference(Path(reference))
    given.look(extractor)
    if fixed is not None:
        fixed.check_options(
            sampling, num_images=num_images, metrics=metrics, skip_corrupt=skip_corrupt, dinov2=dinov2, prompts=prompts
        )
        fixed.check_reference(given)
        num_images, metrics = fixed.images, fixed.metrics
    pairs = [(extractor or Inception(), given)]
    if fixed is not None:
        fixed.check_extractor(pairs[0][0])
    if dinov2 is not None:
        pairs.append((dinov2, Reference(Path(dinov2_reference or reference))))
    for part, real in pairs:
        real.check(part, ONLY_FRECHET if images else metrics, num_images or PUBLISHED)
    if images or to is not None:
        check_scores_file(scores_file(Path(str(source))) if to is None else to)
    fabric, classes = launch(sampling.devices, sampling.precision, sampling.num_nodes), None
    if not images:
        run, num_images = Run.open(source), num_images or PUBLISHED
        model = open_model(run, fabric, sampling)
        _check_model(model, pairs, fixed, metrics, num_images, sampling)
        source = sample_with(model, run, fabric, num_images=num_images, prompts=prompts, sampling=sampling)
        classes = None if sampling.random_classes else model.denoiser.num_classes
        del model  # the extractor can use its memory
    folder = Path(str(source))
    if fixed is not None:
        fixed.check_set(settings_of_set(folder), len(open_images(folder)))
    upright = upright and fixed is None  # whoever published did not turn images
    job = EvaluationJob(metrics, sampling.batch_size, num_workers, skip_corrupt, fabric, upright)
    scores = score_set(folder, num_images, [(part.to(fabric.device), real) for part, real in pairs], job, classes)
    scores.protocol |= {} if protocol is None else {"protocol": protocol}
    with agree():
        if fabric.global_rank == 0:
            add_scores(scores_file(folder) if to is None else to, scores)
    return scores


def _check_model(
    model: PixelGen,
    pairs: Sequence[tuple[FeatureExtractor, Reference]],
    fixed: Protocol | None,
    metrics: Metrics,
    number: int,
    sampling: Sampling,
) -> None:
    """Refuse references of images of another size, and a model that is none of the protocol."""
    for part, real in pairs:
        real.check(part, metrics, number, sampling.size or (model.denoiser.image_size,) * 2)
    if fixed is not None:
        fixed.check_network(model.conditioner, sampling.sampler or model.sampler, sampling.precision)


def is_images(source: str | Path) -> bool:
    """Whether a path is a folder or an npz of images, and nothing that holds weights; it must exist."""
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{path} does not exist: give a run, a checkpoint, an export, a folder of images or an npz")
    if path.suffix.lower() in EXTENSIONS and path.is_file():
        raise ValueError(f"{path} is a single image: give the folder that it lies in")
    if path.is_file():
        return path.suffix == ".npz"
    if holds_weights(path):
        return False
    if (path / "config.yaml").exists():
        find_weights(path)  # which says what is missing
    return True


@checked(image_size=COUNT, num_images=Range(2), batch_size=COUNT, num_workers=FROM_ZERO, devices=COUNT, num_nodes=COUNT)
def write_reference(
    source: str | Path | None = None,
    *,
    to: str | Path,
    data: ImageData | None = None,
    extractor: FeatureExtractor | None = None,
    metrics: Metrics = ALL_POSSIBLE,
    image_size: int | None = None,
    num_images: int | None = None,
    batch_size: int = 64,
    num_workers: int = 4,
    skip_corrupt: bool = False,
    upright: bool = True,
    devices: int = 1,
    num_nodes: int = 1,
) -> Path:
    """Measure real images once, for `evaluate` to compare with.

    The npz has `mu` and `sigma`, with Inception also `mu_s` and `sigma_s`, as other tools read them; and `features` of
    some images, drawn by a seed, for precision, recall and KID.

    Args:
        source: a folder of images, or an npz with `arr_0`.
        to: the npz to write.
        data: a data module, instead of a folder: its training images; `--config FILE` takes the one of a config, with
            `--trust` whatever it names.
        extractor: of the features; Inception if not given.
        metrics: what the file will be needed for.
        image_size: side of centre crops in pixels, as in ADM; images must have one size if not given.
        num_images: how many to take, evenly spaced; all if not given.
        batch_size: images at a time.
        num_workers: processes that read images, for each device; no more than there are cores.
        skip_corrupt: leave out unreadable images, which are refused otherwise.
        upright: turn photographs as their EXIF orientation asks for; ADM and the published statistics do not.
        devices: processes on this machine, one for each GPU, or on the CPU.
        num_nodes: machines.

    Returns:
        The file.

    Raises:
        ValueError: in a sentence, naming what is wrong with the images.
    """
    to = Path(to).expanduser()
    if to.suffix != ".npz":
        raise ValueError(f"{to} is to be an npz of statistics: give a name that ends in .npz")
    if (source is None) == (data is None):
        raise ValueError("give either a folder or npz of images, or a data module with --data or --config")
    if data is not None:
        data.setup("fit")
    refuse_unwritable(to, "give another file as --to")
    images: Dataset[Item] = open_images(str(source), image_size, upright) if data is None else data.train_dataset()
    count = len(choose(images, num_images))
    fabric = launch(devices, "32-true", num_nodes)
    features = (extractor or Inception()).to(fabric.device)
    metrics.choose(features, count)
    warn_of_few(count, features)
    job = EvaluationJob(metrics, batch_size, num_workers, skip_corrupt, fabric)
    statistics = job.measure(images, features, num_images)
    with agree():
        if fabric.global_rank == 0:
            statistics.save(to)
    return to


# --- command line


def _report(path: Path) -> None:
    found = Statistics.load(path)
    sha256 = (found.weights_sha256 or UNKNOWN)[:16]
    part = "" if found.total is None else f" of {found.total}, evenly spaced"
    say(f"{path}: {found.n} images{part}, {found.extractor}, weights {sha256}, hash {found.fingerprint}")


def _source(path: str, trust: bool) -> Path | Run:
    """A path of images, or a run, opened."""
    return Path(path) if is_images(path) else Run(path, trust)


_evaluate = command(evaluate, print_scores, opens=_source)
_write_reference = command(write_reference, _report, prog="python -m pixelgen.evaluate reference")


def main(args: Sequence[str] | None = None) -> Path:
    """Evaluate, or write statistics with `reference` as the first argument; `--help` lists the options of either."""
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:1] != ["reference"]:
        return Path(_evaluate(arguments).protocol["source"])
    with stop_on_bad_input():
        arguments = _with_data(arguments[1:])
    return _write_reference(arguments)


def _with_data(arguments: list[str]) -> list[str]:
    """The images as `--source`, and the data section of `--config FILE` as `--data`, which later flags change."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--source", *arguments]
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--trust", action="store_true")
    found, others = parser.parse_known_args(arguments)
    if found.config is None:
        return others
    try:
        section = read_yaml(found.config)["data"]
    except KeyError as error:
        raise ValueError(f"{found.config} has no section `data`: give the config of a run") from error
    if not found.trust:
        refuse_foreign(section, Path(found.config))
    return [f"--data={json.dumps(section)}", *others]


if __name__ == "__main__":
    main()
