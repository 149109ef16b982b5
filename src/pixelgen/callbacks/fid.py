"""Fréchet distances of generated images during training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric

from pixelgen.callbacks.evaluator import Evaluator, record
from pixelgen.callbacks.periodic import find_ema, log, sampling_mode
from pixelgen.data import ImageData
from pixelgen.data.folder import ImageFolderDataset, list_images
from pixelgen.data.sets import ARRAY, arrays
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.extract import ONLY_FRECHET, Evaluation, Metrics, warn_of_few
from pixelgen.evaluation.reference import read_reference, reference_statistics, refuse_stream
from pixelgen.evaluation.shapes_judge import ShapesAccuracy
from pixelgen.evaluation.statistics import Statistics
from pixelgen.flow import to_uint8


class FID(Evaluator):
    """Fréchet distance between generated and real images, logged as `fid` or `frechet/<extractor>`.

    Only Inception features make a FID; a distance in other features is called by their name. Image i has class
    i mod number of classes, or the caption of training image i, and seed `seed` + i, whatever the number of processes;
    each process makes its share, and only sums are exchanged. With an EMA callback the averaged weights are scored.
    Each evaluation appends its protocol to `<run>/evaluations.jsonl`; the reference goes to
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
        metrics: what else to measure in the same pass, such as KID or precision and recall; nothing if not given.
        accuracy: a metric with `update(images, labels)`, given the same uint8 images (B, 3, H, W) and their classes.
    """

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
    ) -> None:
        if num_samples < 2 or (reference_samples is not None and reference_samples < 2) or batch_size < 1:
            raise ValueError("num_samples and reference_samples must be at least 2 and batch_size at least 1")
        super().__init__(every_n_steps, at_start, at_end)
        self.extractor = extractor
        self.reference = reference
        self.num_samples = num_samples
        self.reference_samples = reference_samples
        self.batch_size = batch_size
        self.seed = seed
        self.decays = decays
        self.metrics = metrics or ONLY_FRECHET
        self.metrics.possible(extractor, num_samples, None)
        self.accuracy = accuracy
        self._statistics: Statistics | None = None
        warn_of_few(num_samples, extractor)

    @property
    def name(self) -> str:
        """What the distance is called in logs."""
        return self.extractor.metric("frechet")

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget the reference of an earlier fit, whose data may have been other; check what evaluation will need."""
        self._statistics = None
        super().on_fit_start(trainer, pl_module)

    def check(self, pl_module: Any, data: ImageData | None) -> None:
        """Check what evaluation will need.

        Raises:
            ValueError: if the reference does not exist, is empty, a stream or of another extractor, or the judge knows
                other classes than the data.
        """
        if self.reference is not None and not self.reference.exists():
            raise ValueError(f"fid.reference {self.reference} does not exist: give a folder of images or an npz file")
        if self.reference is not None and self.reference.is_dir() and not list_images(self.reference):
            raise ValueError(f"no images under fid.reference {self.reference}: give a folder of images or an npz file")
        if self.reference is not None and self.reference.is_file():
            self._check_reference(self.reference)
        if self.reference is None and data is not None:
            refuse_stream(data.train_dataset())
        names = getattr(data, "class_names", None)
        if isinstance(self.accuracy, ShapesAccuracy) and names is not None and names != self.accuracy.class_names:
            raise ValueError(
                f"fid.accuracy judges the classes {self.accuracy.class_names[:2]} and so on, but those of the data are "
                f"{names[:2]} and so on: give ShapesAccuracy the same class_names"
            )

    # --- evaluation

    def evaluate(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        """Generate, score and log; the same values on every rank."""
        ema = find_ema(trainer)
        averages: list[str | None] = [None]
        if ema is not None:
            averages = list(ema.names) if self.decays == "all" else [ema.names[0]]
        values: dict[str, float] = {}
        eager = pl_module.device.type == "cpu"
        for i, average in enumerate(averages):
            with sampling_mode(trainer, pl_module, average or True, eager):
                scores = self._score(trainer, pl_module)
            values |= {name if i == 0 else f"{name}/{average}": value for name, value in scores.items()}
            self._record(trainer, pl_module, average, scores)
        log(trainer, values)
        self.history.append({"step": trainer.global_step, **values})
        return values

    def _score(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        self.extractor.to(pl_module.device)
        real = self._reference(trainer, pl_module)
        metrics = self.metrics.possible(self.extractor, self.num_samples, real)
        evaluation = Evaluation(self.extractor, self.num_samples, metrics)
        if self.accuracy is not None:
            self.accuracy.to(pl_module.device).reset()
        number = trainer.global_rank
        for images, labels in self._images(trainer, pl_module):
            evaluation.update(images, [number + i * trainer.world_size for i in range(len(images))])
            number += len(images) * trainer.world_size
            if self.accuracy is not None and labels is not None:
                self.accuracy.update(images, labels)
        scores = evaluation.scores(real)
        if self.accuracy is not None:
            computed = self.accuracy.compute()
            named = computed if isinstance(computed, dict) else {type(self.accuracy).__name__.lower(): computed}
            scores |= {name: float(value) for name, value in named.items()}
        return scores

    def _images(self, trainer: Trainer, pl_module: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
        """This rank's images, uint8, and their classes."""
        num_classes: int | None = pl_module.denoiser.num_classes
        rank, world_size = trainer.global_rank, trainer.world_size
        # equally many on every rank, as sharded networks need; those past the end are made and dropped
        indices = [rank + world_size * i for i in range(math.ceil(self.num_samples / world_size))]
        prompts = None
        if pl_module.denoiser.text_shape is not None:
            data = trainer.datamodule  # type: ignore[attr-defined]
            prompts = pl_module.conditioner.examples(world_size * len(indices), data)
        for start in range(0, len(indices), self.batch_size):
            batch = indices[start : start + self.batch_size]
            labels = None if num_classes is None else torch.tensor([i % num_classes for i in batch])
            labels = None if labels is None else labels.to(pl_module.device)
            seeds = [self.seed + i for i in batch]
            condition = [prompts[i] for i in batch] if prompts else labels
            images = pl_module.sample(condition, seeds, batch_size=self.batch_size)
            wanted = sum(i < self.num_samples for i in batch)
            if wanted:
                yield to_uint8(images[:wanted]), None if labels is None else labels[:wanted]

    def _reference(self, trainer: Trainer, pl_module: Any) -> Statistics:
        if self._statistics is None:
            self._statistics = self._compute_reference(trainer, pl_module)
            if trainer.is_global_zero:
                file = f"reference_{self.extractor.name.replace('/', '_')}.npz"
                self._statistics.save(Path(trainer.default_root_dir) / file)
        return self._statistics

    def _compute_reference(self, trainer: Trainer, pl_module: Any) -> Statistics:
        if self.reference is not None and not self.reference.is_dir():
            share = trainer.global_rank, trainer.world_size
            return read_reference(self.reference, self.extractor, self.metrics, self.batch_size, *share)
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.reference is not None:
            size: int = pl_module.denoiser.image_size
            dataset: Any = ImageFolderDataset(list_images(self.reference), None, size)
        elif datamodule is not None:
            dataset = datamodule.train_dataset()
        else:
            raise ValueError("there is no data module to take real images from: pass `reference` to FID")
        return reference_statistics(
            dataset,
            self.extractor,
            self.reference_samples,
            metrics=self.metrics,
            batch_size=self.batch_size,
            num_workers=getattr(datamodule, "num_workers", 0),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def _check_reference(self, path: Path) -> None:
        """Refuse a file of another extractor, and metrics that it has not enough for, before hours of training."""
        statistics = Statistics.load(path, self.extractor)
        if statistics.features is not None or ARRAY not in arrays(path):  # else its images will be measured
            self.metrics.possible(self.extractor, self.num_samples, statistics)

    def _record(self, trainer: Trainer, pl_module: Any, average: str | None, scores: dict[str, float]) -> None:
        """Append the numbers and all that they depend on."""
        if self._statistics is None:
            return
        about = {
            **scores,
            **self.metrics.possible(self.extractor, self.num_samples, self._statistics).protocol(),
            "samples": self.num_samples,
            "conditions": pl_module.conditioner.description,
            "seed": self.seed,
            "average": average,
            "sampler": pl_module.sampler.settings(),
            "extractor": self.extractor.name,
            "weights_sha256": self.extractor.weights_sha256,
            "reference": "training images" if self.reference is None else self.reference.name,
            "reference_samples": self._statistics.n,
            "reference_fingerprint": self._statistics.fingerprint,
        }
        record(trainer, about)
