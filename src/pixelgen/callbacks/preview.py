"""Pictures of the same seeds while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw
from torch import Tensor

from pixelgen.callbacks.periodic import Schedule, data_prompts, interlude, takes_text
from pixelgen.data import ImageData
from pixelgen.flow import to_uint8
from pixelgen.samples.grid import PADDING, enlargement, grid

MARGIN = 80  # pixels left of a row of `progress.png`, where its step is written
STRIP = 8  # images in a row of `progress.png`
ROWS = 16  # rows of `progress.png` at most


class Preview(Callback):
    """Samples the same seeds again and again, with the first average if there is an EMA callback.

    Writes `<run>/previews/step_0001000.png`, a grid of all images, and `<run>/previews/progress.png`, the first
    eight images at every step, one row each; the grid also goes to loggers that take images. A network that takes text
    gets prompts, which stand under the pictures. The result of the training run does not depend on previews.

    Args:
        every_n_steps: optimizer steps between two previews, or null for none in between.
        num_images: images in a preview.
        columns: images in a row of the grid.
        seed: image i is made from seed + i.
        labels: class of each image, repeated if there are fewer than images; spread over all classes if not given.
        prompts: for a network that takes text, repeated if there are fewer than images; those of the first training
            images if not given.
        at_start: also before the first step.
        at_end: also after the last step.
    """

    def __init__(
        self,
        every_n_steps: int | None = 1000,
        num_images: int = 16,
        columns: int = 8,
        seed: int = 0,
        labels: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        at_start: bool = False,
        at_end: bool = True,
    ) -> None:
        if num_images < 1 or columns < 1:
            raise ValueError(f"num_images and columns must be at least 1, got {num_images} and {columns}")
        self.schedule = Schedule(every_n_steps, at_start, at_end)
        self.num_images = num_images
        self.columns = columns
        self.seed = seed
        self.labels = None if labels is None else list(labels)
        self.prompts = None if prompts is None else list(prompts)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what previews will need."""
        self.check(pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def check(self, pl_module: LightningModule, data: ImageData | None) -> None:
        """Refuse labels that do not exist, prompts for a network without text, or their lack, before training.

        Raises:
            ValueError: naming them.
        """
        if self.prompts is not None and not takes_text(pl_module):
            raise ValueError(f"preview.prompts are {self.prompts[:2]}, but the network takes none: leave them out")
        if self.prompts is None and takes_text(pl_module):
            data_prompts(data, self.num_images)
        num_classes: int | None = pl_module.denoiser.num_classes  # type: ignore[union-attr, assignment]
        if self.labels is not None and (num_classes is None or not all(0 <= i <= num_classes for i in self.labels)):
            known = "it is unconditional" if num_classes is None else f"it has classes 0 to {num_classes - 1}"
            raise ValueError(f"preview.labels are {list(self.labels)}, but the network does not know them: {known}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Preview the untrained network, if asked for."""
        if self.schedule.start(trainer.global_step):
            self.preview(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Preview every n-th step."""
        if self.schedule.step(trainer.global_step):
            self.preview(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Preview the result, unless the last step was one of the n-th ones."""
        if self.schedule.end(trainer.global_step):
            self.preview(trainer, pl_module)

    def preview(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample on every rank (sharded networks need all of them); write on rank 0."""
        prompts = None
        if takes_text(pl_module):
            data = trainer.datamodule  # type: ignore[attr-defined]
            prompts = data_prompts(data, self.num_images) if self.prompts is None else self.prompts
            prompts = [prompts[i % len(prompts)] for i in range(self.num_images)]
        condition = prompts or self._condition(pl_module.denoiser.num_classes)  # type: ignore[union-attr, arg-type]
        seeds = range(self.seed, self.seed + self.num_images)
        with interlude(trainer, pl_module, eager=True):
            images = to_uint8(pl_module.sample(condition, list(seeds))).cpu()  # type: ignore[operator]
        if trainer.is_global_zero:
            self._write(trainer, images, prompts)
        trainer.strategy.barrier("preview")

    def _condition(self, num_classes: int | None) -> list[int] | None:
        if num_classes is None:
            return None
        if self.labels is not None:
            return [self.labels[i % len(self.labels)] for i in range(self.num_images)]
        if self.num_images >= num_classes:
            return [i % num_classes for i in range(self.num_images)]
        return [i * num_classes // self.num_images for i in range(self.num_images)]

    def _write(self, trainer: Trainer, images: Tensor, prompts: Sequence[str] | None) -> None:
        picture = grid(images, self.columns, prompts)
        scale = 1 if prompts is None else enlargement(images.shape[-1])
        folder = Path(trainer.default_root_dir) / "previews"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"step_{trainer.global_step:07d}.png")
        self._write_progress(folder, trainer.global_step, (scale * images.shape[-2], scale * images.shape[-1]))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("preview", np.asarray(picture), trainer.global_step, dataformats="HWC")
            elif hasattr(logger, "log_image"):  # Weights & Biases and those that follow its lead
                logger.log_image(key="preview", images=[picture], step=trainer.global_step)

    def _write_progress(self, folder: Path, step: int, size: tuple[int, int]) -> None:
        """Put `progress.png` together from the pictures in the folder, so that a resumed run continues it."""
        steps = [(int(path.stem[5:]), path) for path in sorted(folder.glob("step_*.png"))]
        steps = [(at, path) for at, path in steps if at <= step]
        chosen = sorted({round(i) for i in np.linspace(0, len(steps) - 1, ROWS)})
        height, width = size
        columns = min(STRIP, self.num_images, self.columns)
        canvas = Image.new(
            "RGB", (MARGIN + columns * (width + PADDING), len(chosen) * (height + PADDING) + PADDING), "white"
        )
        draw = ImageDraw.Draw(canvas)
        for row, index in enumerate(chosen):
            at, path = steps[index]
            top = PADDING + row * (height + PADDING)
            with Image.open(path) as preview:
                first = preview.crop((PADDING, PADDING, PADDING + columns * (width + PADDING), PADDING + height))
                canvas.paste(first, (MARGIN, top))
            draw.text((PADDING, top + height // 2), f"{at}", fill="black", anchor="lm")
        unfinished = folder / ".progress.png"
        canvas.save(unfinished)
        unfinished.replace(folder / "progress.png")
