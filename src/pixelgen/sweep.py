"""`python -m pixelgen.sweep runs/demo --guidance 1 2 3`: which guidance, interval, average and sampler score best."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning import Fabric
from lightning.fabric.utilities import rank_zero_only
from rich.console import Console

from pixelgen.cli.command import stop_on_bad_input
from pixelgen.cli.former import FLAGS as SAMPLE_FLAGS
from pixelgen.cli.former import add_flags
from pixelgen.config import one_sentence
from pixelgen.data.sets import arrays, open_images
from pixelgen.distributed.processes import Precision, launch
from pixelgen.encoders import FeatureExtractor
from pixelgen.evaluation import protocol
from pixelgen.evaluation.compare import Result, command, numbers, plot, ranked, table_of, write_csv
from pixelgen.evaluation.extract import ONLY_FRECHET, Metrics
from pixelgen.evaluation.measure import Work, check_reference, scores_file
from pixelgen.evaluation.statistics import Statistics
from pixelgen.evaluation.sweep import Row, rows
from pixelgen.runs.run import Run
from pixelgen.sample import sample_with
from pixelgen.samples.sampling import Sampling

Score = Callable[[Path, int], dict[str, float]]  # a folder, and how many of its images count
INCEPTION = "pixelgen.encoders.inception.Inception"
SAME = ("num_images", "classes", "prompts", "negative", "seed", "size", "precision", "compile")  # as in sample


def run(
    table: Sequence[Row],
    wanted: dict[str, Any],
    sampling: Sampling,
    source: Run,
    fabric: Fabric,
    score: Score,
) -> Iterator[Result]:
    """Make and score one set after another; what is on the disk already is taken from there.

    Args:
        table: of the sets.
        wanted: the images of each, as `sample_with` takes them.
        sampling: how they are generated, but for sampler and EMA.
        source: of the weights.
        fabric: launched.
        score: called in every process.
    """
    model = source.model(table[0].ema, fabric.device)
    if sampling.compile:
        model.denoiser.compile_blocks(dynamic=False)
    filled = table[0].ema
    for row in table:
        if row.ema != filled:
            source.fill(model, row.ema)
            filled = row.ema
        manner = replace(sampling, ema=row.ema, sampler=row.sampler)
        folder = sample_with(model, source, fabric, sampling=manner, **wanted)
        yield Result(row, folder, score(folder, wanted["num_images"]))


class Scorer:
    """Scores the first images of folders as `evaluate` does, once: their `evaluation.json` is looked into first.

    Args:
        work: of the processes.
        extractor: of features.
        reference: npz of statistics, npz or folder of images; None for what the run's own FID callback left.
        source: of the weights.
        folder: where the statistics of images go.
        num_images: of each set.

    Raises:
        ValueError: if there is no reference, or it is of another extractor.
    """

    def __init__(
        self,
        work: Work,
        extractor: FeatureExtractor,
        reference: Path | None,
        source: Run,
        folder: Path,
        num_images: int | None = None,
    ) -> None:
        self.work, self.extractor = work, extractor.to(work.fabric.device)
        self.path = reference or source.folder / f"reference_{extractor.name.replace('/', '_')}.npz"
        if reference is None and not self.path.exists():
            raise ValueError(f"there is no {self.path}: give --reference, an npz of statistics or a folder of images")
        check_reference(self.path, extractor, work.metrics, num_images)
        self.folder = folder
        self.real: Statistics | None = None

    def _reference(self, images: Path) -> Statistics:
        """Statistics of the reference, of the size of the images; those of other images are written to a file, once."""
        if self.real is None:
            self.real = self.work.reference(self.path, self.extractor, open_images(images).size)
            kept = set() if self.path.is_dir() else arrays(self.path)
            if "mu" not in kept or (self.real.features is not None and "features" not in kept):
                self.path = self.folder / "reference.npz"
                if self.work.fabric.global_rank == 0:
                    self.real.save(self.path)
                self.work.fabric.barrier()
        return self.real

    def __call__(self, folder: Path, num_images: int) -> dict[str, float]:
        """The scores by name."""
        reference = self._reference(folder)
        found = self.work.fabric.broadcast(self._find(folder, num_images, reference))
        if found is None:
            found = self.work.scores(folder, num_images, [self.extractor], [self.path])
            if self.work.fabric.global_rank == 0:
                protocol.add(scores_file(folder), found, found.protocol)
        return dict(found)

    def _find(self, folder: Path, num_images: int, reference: Statistics) -> dict[str, float] | None:
        """Scores of the same images by the same measure."""
        path = scores_file(folder)
        wanted = {
            "extractor": self.extractor.name,
            "weights_sha256": self.extractor.weights_sha256,
            "reference_fingerprint": reference.fingerprint,
            "settings": self.work.metrics.possible(self.extractor, num_images, reference).protocol(),
        }
        for record in json.loads(path.read_text()) if path.is_file() else []:
            about = record["protocol"]
            same = len(about["features"]) == 1 and wanted.items() <= about["features"][0].items()
            if same and (about["images"], about["skipped"]) == (num_images, 0):
                scores: dict[str, float] = record["scores"]
                return scores
        return None


# --- command line


def sweep(
    source: str | Path,
    extractor: FeatureExtractor,
    reference: Path | None = None,
    metrics: Metrics = ONLY_FRECHET,
    num_images: int = 5_000,
    guidance: Sequence[float] = (),
    interval: Sequence[str] = (),
    ema: Sequence[str] = (),
    samplers: Sequence[str] = (),
    num_steps: Sequence[int] = (),
    classes: Sequence[str | int] | None = None,
    prompts: Sequence[str] | None = None,
    negative: str = "",
    seed: int = 0,
    size: tuple[int, int] | None = None,
    precision: Precision = "bf16-mixed",
    batch_size: int = 64,
    devices: int = 1,
    num_nodes: int = 1,
    compile: bool = False,
    to: str | Path | None = None,
) -> list[Result]:
    """Sample and score every combination of guidance, interval, average and sampler.

    Each set lies where `python -m pixelgen.sample` would put it, and its score beside it: what is there is not made
    again, also after an interruption, and two intervals with the same steps in them are one set. Writes `sweep.csv`
    after each set, and `sweep.png`; returns the sets in their order.

    Args:
        source: run folder, checkpoint, export, or a published checkpoint.
        extractor: of the features that are compared.
        reference: npz of statistics, or a folder of images; what the run's FID callback left if not given.
        metrics: what to compute beside the Fréchet distance.
        num_images: of each set. Distances fall as this grows: compare equal numbers only.
        guidance: strengths; the model's own if not given.
        interval: times in which guidance is on, such as 0.1-0.9; the model's own if not given.
        ema: averages, also widths such as `width0.07` that are made of stored ones; the first if not given.
        samplers: classes; the model's own if not given.
        num_steps: of the samplers; the model's own if not given.
        classes: as for sample.
        prompts: as for sample.
        negative: as for sample.
        seed: of the first image.
        size: height and width in pixels; the training size if not given.
        precision: of matrix products.
        batch_size: images between two looks at the clock and the disk.
        devices: processes on this machine.
        num_nodes: machines.
        compile: compile the blocks of the network first.
        to: folder for table and plot; `sweep` in the run if not given.

    Raises:
        ValueError: naming what is wrong.
    """
    where = Run(source)
    wanted = {"num_images": num_images, "classes": classes, "prompts": prompts}
    sampling = Sampling(None, True, size, seed, negative, precision, batch_size, devices, num_nodes, compile)
    plan = rows(where.sampler, [*ema] or [True], samplers, num_steps, guidance, interval)
    for row in plan:
        where.check(row.ema)
    fabric = launch(devices, precision, num_nodes)
    folder = Path(to) if to is not None else where.folder / "sweep"
    score = Scorer(Work(fabric, metrics, batch_size, 0, False), extractor, reference, where, folder, num_images)
    results: list[Result] = []
    for number, result in enumerate(run(plan, wanted, sampling, where, fabric, score), 1):
        results.append(result)
        if fabric.global_rank == 0:
            write_csv(results, folder / "sweep.csv")
            said = ", ".join(f"{name} {value}" for name, value in result.row.columns().items())
            Console().print(f"{number}/{len(plan)}: {said}: {numbers(result.scores)}", soft_wrap=True, highlight=False)
    if fabric.global_rank == 0:
        plot(results, folder / "sweep.png")
    fabric.barrier()
    return results


def main(args: Sequence[str] | None = None) -> list[Result]:
    """Sweep as the options say; see `python -m pixelgen.sweep --help`."""
    parser = ArgumentParser(prog="python -m pixelgen.sweep", allow_abbrev=False, exit_on_error=False)
    parser.add_function_arguments(sweep, as_positional=True, skip={"extractor", *FLAGS})
    parser.add_argument("--extractor", type=FeatureExtractor, default={"class_path": INCEPTION})
    add_flags(parser, FLAGS)
    with stop_on_bad_input():
        options = _parse(parser, list(sys.argv[1:] if args is None else args))
        results = sweep(**options)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        console = Console()
        console.print(table_of(results))
        best = ranked(results)[0]
        same = {name: options[name] for name in SAME if options[name]}
        line = command(options["source"], best.row, same)
        console.print(f"best, in {best.folder}:\n{line}", soft_wrap=True, highlight=False)
    return results


FLAGS: dict[str, dict[str, Any]] = {
    "guidance": {"nargs": "+", "type": float, "default": [], "help": "strengths; the model's own if not given"},
    "interval": {"nargs": "+", "default": [], "help": "times in which guidance is on, such as 0.1-0.9 0-1"},
    "ema": {"nargs": "+", "default": [], "help": "averages, also widths such as width0.07 that nobody stored"},
    "samplers": {"nargs": "+", "default": [], "help": "classes, such as Heun Euler; the model's own if not given"},
    "num_steps": {"nargs": "+", "type": int, "default": [], "help": "of the samplers; the model's own if not given"},
    **SAMPLE_FLAGS,
}


def _parse(parser: ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    try:
        options = vars(parser.instantiate(parser.parse_args(arguments)))
    except (ArgumentError, ValueError) as error:
        if "arguments are required: source" in str(error):
            raise ValueError("say what to sample from: a run folder, a checkpoint or an export") from error
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(one_sentence(error, flags)) from error
    return {**options, "size": None if options["size"] is None else tuple(options["size"])}


if __name__ == "__main__":
    main()
