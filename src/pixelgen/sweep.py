"""`python -m pixelgen.sweep runs/demo --guidance 1 2 3`: which guidance, interval, EMA and sampler score best."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixelgen.callbacks.scores import reference_file
from pixelgen.checks import COUNT, FROM_ZERO, Range, checked
from pixelgen.cli.command import command
from pixelgen.distributed.processes import agree, first, is_first, launch
from pixelgen.encoders import FeatureExtractor
from pixelgen.encoders.inception import INCEPTION, Inception
from pixelgen.evaluation.extract import EvaluationJob
from pixelgen.evaluation.images import open_images
from pixelgen.evaluation.reference import Reference
from pixelgen.evaluation.score_set import add_scores, score_set, scores_file
from pixelgen.evaluation.scores import ONLY_FRECHET, Metrics
from pixelgen.evaluation.statistics import Statistics
from pixelgen.evaluation.sweep import Result, plot, ranked, rows, sample_command, table_of, write_csv
from pixelgen.files import refuse_unwritable
from pixelgen.flow import Sampler
from pixelgen.runs.checkpoints import EXPORT
from pixelgen.runs.run import Run
from pixelgen.sample import open_model, sample_with
from pixelgen.samples.sampling import Sampling
from pixelgen.text import say

SAME = ("negative", "random_classes", "seed", "size", "precision", "compile")  # settings that no row changes


class Scorer:
    """Scores the first images of folders as `evaluate` does, once: their `evaluation.json` is looked into first.

    `classes` is the number of those that come in turn, if they do.
    Statistics of a reference that is images are written into `folder`, so that they are computed once.
    """

    def __init__(
        self, job: EvaluationJob, extractor: FeatureExtractor, reference: Reference, folder: Path, classes: int | None
    ) -> None:
        self.job, self.extractor, self.reference, self.folder, self.classes = job, extractor, reference, folder, classes
        self._real: Statistics | None = None

    def __call__(self, images: Path, number: int) -> dict[str, float]:
        """The scores of the first `number` images in a folder; all processes must call this."""
        real = self._real = self._real or self._measure(images)
        known = first(self._find(scores_file(images), number, real))
        if known is not None:
            return known
        found = score_set(images, number, [(self.extractor, self.reference)], self.job, self.classes)
        with agree():
            if is_first():
                add_scores(scores_file(images), found)
        return dict(found)

    def _measure(self, images: Path) -> Statistics:
        """Statistics of the reference, of the size of the images."""
        real = self.reference.statistics(self.extractor, self.job, open_images(images).size)
        stored = self.reference.stored
        if "mu" not in stored or (real.features is not None and "features" not in stored):
            self.reference = Reference(self.folder / "reference.npz")
            with agree():  # the others wait for the file
                if is_first():
                    real.save(self.reference.path)
        return real

    def _find(self, path: Path, number: int, real: Statistics) -> dict[str, float] | None:
        """Scores of the same images by the same measure."""
        metrics = self.job.metrics
        wanted = {
            "extractor": self.extractor.name,
            "weights_sha256": self.extractor.weights_sha256,
            "reference_fingerprint": real.fingerprint,
            "settings": metrics.settings(metrics.choose(self.extractor, number, real)[0]),
        }
        for record in json.loads(path.read_text()) if path.is_file() else []:
            about = record["protocol"]
            same = len(about["features"]) == 1 and wanted.items() <= about["features"][0].items()
            if same and (about["images"], about["skipped"]) == (number, 0):
                return dict(record["scores"])
        return None


@checked(num_images=Range(2), guidance=FROM_ZERO, num_steps=COUNT)
def sweep(
    source: str | Path | Run,
    *,
    extractor: FeatureExtractor | None = None,
    reference: str | Path | None = None,
    metrics: Metrics = ONLY_FRECHET,
    num_images: int = 5_000,
    guidance: Sequence[float] = (),
    interval: Sequence[str] = (),
    ema: Sequence[str] = (),
    samplers: Sequence[str] = (),
    num_steps: Sequence[int] = (),
    classes: Sequence[str | int] | None = None,
    prompts: Sequence[str] | None = None,
    to: str | Path | None = None,
    sampling: Sampling = Sampling(),
) -> list[Result]:
    """Sample and score every combination of guidance, interval, EMA and sampler.

    Each set lies where `python -m pixelgen.sample` would put it, and its score beside it: what is there is not made
    again, also after an interruption, and two intervals with the same steps in them are one set. Writes `sweep.csv`
    after each set, and `sweep.png`; returns the sets in their order.

    Args:
        source: run folder, checkpoint, export, or a published checkpoint.
        extractor: of the features that are compared; Inception if not given.
        reference: npz of statistics, or a folder of images; what the run's FID callback left if not given.
        metrics: what to compute beside the Fréchet distance.
        num_images: of each set. Distances fall as this grows: compare equal numbers only.
        guidance: strengths; the sampler's own if not given.
        interval: times in which guidance is on, such as 0.1-0.9 0-1; the sampler's own if not given.
        ema: names of EMAs, also widths such as width0.07 that are computed from stored ones; the first if not given.
        samplers: classes, such as Heun Euler; the sampler's own if not given.
        num_steps: of the samplers; the sampler's own if not given.
        classes: as for sample.
        prompts: as for sample.
        to: folder for table and plot; `sweep` in the run if not given.
        sampling: everything else, as for sample.

    Raises:
        ValueError: naming what is wrong.
    """
    run = Run.open(source)
    own = sampling.sampler or run.build(Sampler, run.sampler, "sampler")
    plan = rows(own, [*ema] or [True], samplers, num_steps, guidance, interval)
    for row in plan:
        run.check(row.ema)
    left = run.folder / reference_file(INCEPTION if extractor is None else extractor.name)
    if reference is None and not left.exists():
        raise ValueError(f"there is no {left}: give --reference, an npz of statistics or a folder of images")
    real = Reference(Path(reference or left))
    real.look(extractor)
    fabric = launch(sampling.devices, sampling.precision, sampling.num_nodes)
    features = (extractor or Inception()).to(fabric.device)
    real.check(features, metrics, num_images)
    folder = run.folder / "sweep" if to is None else Path(to).expanduser()
    refuse_unwritable(folder / "sweep.csv", "give another folder as --to")
    model, filled = open_model(run, fabric, replace(sampling, ema=plan[0].ema)), plan[0].ema
    real.check(features, metrics, num_images, sampling.size or (model.denoiser.image_size,) * 2)
    shown = None if classes or sampling.random_classes else model.denoiser.num_classes
    score = Scorer(EvaluationJob(metrics, sampling.batch_size, 0, False, fabric), features, real, folder, shown)
    wanted: dict[str, Any] = {"num_images": num_images, "classes": classes, "prompts": prompts}
    same = wanted | {name: getattr(sampling, name) for name in SAME}
    name = str(run) if run.path.name in ("last.ckpt", EXPORT) else run.path
    results: list[Result] = []
    for row in plan:
        if row.ema != filled:
            run.fill(model, row.ema)
            filled = row.ema
        images = sample_with(model, run, fabric, sampling=replace(sampling, ema=row.ema, sampler=row.sampler), **wanted)
        results.append(Result(row, images, score(images, num_images), sample_command(name, row, same)))
        if fabric.global_rank == 0:
            write_csv(results, folder / "sweep.csv")
            say(f"{len(results)}/{len(plan)}: {results[-1]}")
    if fabric.global_rank == 0:
        plot(results, folder / "sweep.png")
    fabric.barrier()
    return results


def _report(results: list[Result]) -> None:
    best = ranked(results)[0]
    say(table_of(results), f"best, in {best.folder}:", best.command)


main = command(sweep, _report)

if __name__ == "__main__":
    main()
