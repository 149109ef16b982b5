"""Scores of generated images during training."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torchmetrics import Metric

from pixelgen.callbacks.periodic import Periodic, data_of, find_ema, log, sampling_mode
from pixelgen.checks import COUNT, SEED, Range, checked
from pixelgen.conditioner import Text
from pixelgen.data import ImageData
from pixelgen.distributed.processes import agree, gather
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.extract import Comparison, EvaluationJob, refuse_stream
from pixelgen.evaluation.geneval import Detector, geneval_scores
from pixelgen.evaluation.geneval.prompts import Prompt, find_prompts, prompts_sha256, subset_by_task
from pixelgen.evaluation.reference import Reference
from pixelgen.evaluation.scores import ONLY_FRECHET, Metrics, warn_of_few
from pixelgen.evaluation.shapes_judge import ShapesAccuracy
from pixelgen.evaluation.statistics import Statistics
from pixelgen.files import append_line
from pixelgen.module import PixelGen
from pixelgen.samples.generate import RANDOM, Request, drawn, stream


class Evaluator(Periodic):
    """Scores generated images before, during and after training, and keeps every value in `history`."""

    def __init__(self, every_n_steps: int | None, at_start: bool = False, at_end: bool = True) -> None:
        super().__init__(every_n_steps, at_start, at_end)
        self.history: list[dict[str, float]] = []

    def keep(self, trainer: Trainer, values: dict[str, float]) -> None:
        """Add values to the history and log them."""
        self.history.append({"step": trainer.global_step, **values})
        log(trainer, values)

    def record(self, trainer: Trainer, values: dict[str, Any]) -> None:
        """Append scores and all that they depend on to `<run>/evaluations.jsonl`, on rank 0."""
        if trainer.is_global_zero:
            line = json.dumps({"step": trainer.global_step, **values}) + "\n"
            append_line(Path(trainer.default_root_dir) / "evaluations.jsonl", line)

    def state_dict(self) -> dict[str, Any]:
        """Every value so far."""
        return {"history": [dict(entry) for entry in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the values so far."""
        self.history = [dict(entry) for entry in state_dict["history"]]


class FID(Evaluator):
    """Fréchet distance between generated and real images, logged as `fid` or `frechet/<extractor>`.

    Only Inception features make a FID; a distance in other features is called by their name. Image i has class
    i mod number of classes, or the caption of training image i, and seed `seed` + i, whatever the number of processes;
    each process makes its share, and only what scores need is exchanged. With an EMA callback the averaged weights are
    scored. Each evaluation appends its protocol to `<run>/evaluations.jsonl`; the reference goes to
    `<run>/reference_<extractor>.npz`.

    Args:
        extractor: the feature extractor.
        reference: an npz of statistics or a folder of images; the data module's training images if not given.
        num_samples: how many images to generate. The distance falls as this grows: compare equal numbers only.
        reference_samples: how many real images to use, evenly spaced over the data set; all if not given.
        every_n_steps: optimizer steps between two evaluations, or null for none in between.
        at_start: also before the first step.
        at_end: also after the last step.
        batch_size: images sampled at a time; does not change them.
        seed: image i is made from seed + i.
        decays: score the first average only, or all of them (the others as `fid/<average>`).
        metrics: what else to measure in the same pass, such as KID or precision and recall; null for nothing.
        random_classes: draw the class of each image at random, by its seed, instead of taking all in turn.
        accuracy: a metric with `update(images, labels)`, given the same uint8 images (B, 3, H, W) and their classes;
            null for none.
    """

    @checked(num_samples=Range(2), reference_samples=Range(2), batch_size=COUNT, seed=SEED)
    def __init__(
        self,
        extractor: FeatureExtractor,
        reference: Path | None = None,
        num_samples: int = 50_000,
        reference_samples: int | None = None,
        every_n_steps: int | None = None,
        at_start: bool = False,
        at_end: bool = True,
        batch_size: int = 64,
        seed: int = 0,
        decays: Literal["first", "all"] = "first",
        metrics: Metrics | None = None,
        accuracy: Metric | None = None,
        random_classes: bool = False,
    ) -> None:
        super().__init__(every_n_steps, at_start, at_end)
        self.extractor = extractor
        self.reference = None if reference is None else Reference(Path(reference), reference_samples)
        self.num_samples, self.reference_samples = num_samples, reference_samples
        self.batch_size, self.seed, self.decays = batch_size, seed, decays
        self.metrics = ONLY_FRECHET if metrics is None else metrics
        self.metrics.choose(extractor, num_samples)
        self.accuracy, self.random_classes = accuracy, random_classes
        self._statistics: Statistics | None = None
        warn_of_few(num_samples, extractor)

    def check(self, pl_module: PixelGen, data: ImageData | None) -> None:
        """Forget the reference of an earlier fit, whose data may have been other; check what evaluation will need.

        A ValueError tells that the reference does not exist, is empty, a stream or of another extractor, or that the
        accuracy knows other classes than the data.
        """
        self._statistics = None
        if self.random_classes and not pl_module.conditioner.takes_classes:
            raise ValueError("fid.random_classes draws classes, and this network takes none: leave it out")
        if self.reference is not None:
            try:
                size = (pl_module.denoiser.image_size,) * 2
                self.reference.check(self.extractor, self.metrics, self.num_samples, size)
            except ValueError as error:
                raise ValueError(f"fid.reference: {error}") from error
        elif data is None:
            raise ValueError("there is no data module to take real images from: pass `reference` to FID")
        else:
            refuse_stream(data.train_dataset())
        names = getattr(data, "class_names", None)
        if isinstance(self.accuracy, ShapesAccuracy) and names is not None and names != self.accuracy.class_names:
            raise ValueError(
                f"fid.accuracy judges {len(self.accuracy.class_names)} classes, {self.accuracy.class_names[:2]} and so "
                f"on, but the data has {len(names)}, {names[:2]} and so on: give ShapesAccuracy the same class_names"
            )

    def run(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Generate, score and log; the same values on every rank."""
        ema = find_ema(trainer)
        names = [None] if ema is None else ema.names
        averages: list[str | None] = [*names] if self.decays == "all" else [names[0]]
        values: dict[str, float] = {}
        protocols: list[dict[str, Any]] = []
        for i, average in enumerate(averages):
            with sampling_mode(trainer, pl_module, average or True, pl_module.device.type == "cpu"):
                scores, protocol = self._score(trainer, pl_module, average)
            values |= {name if i == 0 else f"{name}/{average}": value for name, value in scores.items()}
            protocols.append(scores | protocol)
        self.keep(trainer, values)
        for protocol in protocols:
            self.record(trainer, protocol)

    def _score(
        self, trainer: Trainer, pl_module: PixelGen, average: str | None
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Scores of an average, and all that they depend on."""
        real, accuracy = self._reference(trainer, pl_module), self.accuracy
        comparison = Comparison(self.extractor, real, self.num_samples, self.metrics)
        conditioner = pl_module.conditioner
        if self.random_classes:
            examples = drawn(conditioner.from_words(None, None), self.seed, self.num_samples)
        else:
            examples = conditioner.examples(self.num_samples, data_of(trainer))
        requests = [Request("", self.seed + i, example) for i, example in enumerate(examples)]
        if accuracy is not None:
            accuracy.to(pl_module.device).reset()
        share = self.batch_size, trainer.global_rank, trainer.world_size
        with agree():
            for numbers, images in stream(pl_module, requests, None, *share):
                comparison.update(images, numbers)
                if accuracy is not None and examples[0] is not None:
                    classes = torch.tensor([examples[number] for number in numbers], device=images.device)
                    accuracy.update(images, classes)
        scores = comparison.scores()
        if accuracy is not None:
            computed = accuracy.compute()
            named = computed if isinstance(computed, dict) else {type(accuracy).__name__.lower(): computed}
            scores |= {name: float(value) for name, value in named.items()}
        about = {
            "samples": self.num_samples,
            "conditions": RANDOM if self.random_classes else conditioner.description,
            "seed": self.seed,
            "average": average,
            "sampler": pl_module.sampler.settings(),
            "extractor": self.extractor.name,
            "weights_sha256": self.extractor.weights_sha256,
            "reference": "training images" if self.reference is None else self.reference.path.name,
            "reference_samples": real.n,
            "reference_fingerprint": real.fingerprint,
        }
        return scores, comparison.protocol["settings"] | about

    def _reference(self, trainer: Trainer, pl_module: PixelGen) -> Statistics:
        """Statistics of the real images, computed and written once a fit."""
        self.extractor.to(pl_module.device)
        if self._statistics is not None:
            return self._statistics
        data, side = data_of(trainer), pl_module.denoiser.image_size
        workers, upright = getattr(data, "num_workers", 0), getattr(data, "upright", True)
        job = EvaluationJob(self.metrics, self.batch_size, workers, skip_corrupt=True, upright=upright)
        if self.reference is not None:
            self._statistics = self.reference.statistics(self.extractor, job, (side, side))
        else:
            assert data is not None
            self._statistics = job.measure(data.train_dataset(), self.extractor, self.reference_samples)
        with agree():
            if trainer.is_global_zero:
                self._statistics.save(Path(trainer.default_root_dir) / reference_file(self.extractor.name))
        return self._statistics


def reference_file(extractor: str) -> str:
    """Name of the npz that the FID callback leaves in a run, from that of its extractor."""
    return f"reference_{extractor.replace('/', '_')}.npz"


class GenEval(Evaluator):
    """Share of images that show what their prompts ask for, logged as `geneval/overall` and `geneval/<task>`.

    Image i is generated from prompt i // `images_per_prompt` and seed `seed` + i mod `images_per_prompt`, whatever the
    number of processes: each generates and judges its share, and only verdicts are exchanged. With an EMA callback the
    first EMA is scored. Each evaluation appends its protocol to `<run>/evaluations.jsonl`. A few prompts tell whether
    training goes well; the number to report is that of `python -m pixelgen.geneval`.

    Args:
        detector: `ShapesDetector` for shapes, `CocoDetector` for GenEval's own prompts.
        prompts: `geneval`, `shapes` (those of the data, where it is `ShapesData`), or a file of GenEval's format.
        num_prompts: how many of them, evenly over the tasks; null for all.
        images_per_prompt: published: 4.
        every_n_steps: optimizer steps between two evaluations, or null for none in between.
        at_start: also before the first step.
        at_end: also after the last step.
        batch_size: images generated at a time.
        seed: of the first image of each prompt.
    """

    @checked(num_prompts=COUNT, images_per_prompt=COUNT, batch_size=COUNT, seed=SEED)
    def __init__(
        self,
        detector: Detector,
        prompts: str = "geneval",
        num_prompts: int | None = 60,
        images_per_prompt: int = 1,
        every_n_steps: int | None = None,
        at_start: bool = False,
        at_end: bool = True,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_steps, at_start, at_end)
        self.detector, self.prompts, self.num_prompts, self.batch_size = detector, prompts, num_prompts, batch_size
        self.seeds = range(seed, seed + images_per_prompt)
        self._chosen: list[Prompt] = []

    def check(self, pl_module: PixelGen, data: ImageData | None) -> None:
        """Choose the prompts, which must exist; the detector must know their objects, and the model take prompts."""
        if not isinstance(pl_module.conditioner, Text):
            raise ValueError("callbacks.geneval makes images from prompts: give the model a text_encoder, or null here")
        prompts = find_prompts(self.prompts, data)
        self.detector.check(prompts)
        self._chosen = subset_by_task(prompts, self.num_prompts)

    def run(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Generate, judge and log; the same values on every process."""
        ema = find_ema(trainer)
        with sampling_mode(trainer, pl_module, eager=pl_module.device.type == "cpu"):
            scores = self._score(pl_module, trainer.global_rank, trainer.world_size)
        values = {f"geneval/{name.removeprefix('task/')}": value for name, value in scores.items()}
        protocol = {
            "prompts": len(self._chosen),
            "prompts_sha256": prompts_sha256(self._chosen),
            "seeds": list(self.seeds),
            "average": None if ema is None else ema.names[0],
            "sampler": pl_module.sampler.settings(),
            **self.detector.protocol,
        }
        self.keep(trainer, values)
        self.record(trainer, values | protocol)

    def _score(self, model: PixelGen, rank: int, world_size: int) -> dict[str, float]:
        images = [(prompt, seed) for prompt in self._chosen for seed in self.seeds]
        requests = [Request("", seed, prompt.text) for prompt, seed in images]
        verdicts: list[tuple[int, bool]] = []
        self.detector.to(model.device)
        try:
            with agree():
                for numbers, pixels in stream(model, requests, None, self.batch_size, rank, world_size):
                    judged = self.detector.judge(pixels, [images[number][0] for number in numbers])
                    verdicts += [(number, verdict.correct) for number, verdict in zip(numbers, judged, strict=True)]
        finally:
            self.detector.to("cpu")  # Mask2Former and CLIP are 2 GB that training can use
        correct = dict(gather(verdicts))
        return geneval_scores([prompt for prompt, _ in images], [correct[i] for i in range(len(images))])
