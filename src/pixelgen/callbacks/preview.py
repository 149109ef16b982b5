"""Pictures of the same seeds throughout training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw
from torch import Tensor

from pixelgen.callbacks.periodic import Periodic, data_of, sampling_mode
from pixelgen.checks import COUNT, FROM_ZERO, SEED, checked
from pixelgen.data import ImageData
from pixelgen.files import atomic
from pixelgen.flow import to_uint8
from pixelgen.module import PixelGen
from pixelgen.samples.grid import PADDING, enlargement, grid

MARGIN = 80  # pixels left of a row of `progress.png`, where its step is written
STRIP = 8  # images in a row of `progress.png`
ROWS = 16  # rows of `progress.png` at most


class Preview(Periodic):
    """Samples the same seeds again and again, with the first average if there is an EMA callback.

    Writes `<run>/previews/step_0001000.png`, a grid of all images, and `<run>/previews/progress.png`, the first
    eight images at every step, one row each; the grid also goes to loggers that take images. A network that takes text
    gets prompts, which stand under the pictures. The result of the training run does not depend on previews.

    Args:
        every_n_steps: optimizer steps between two previews, or null for none in between.
        num_images: images in a preview.
        columns: images in a row of the grid.
        seed: image i is made from seed + i.
        labels: class of each image, number or name as in `--classes` of `sample`, repeated if there are fewer than
            images; spread over all classes if not given.
        prompts: for a network that takes text, repeated if there are fewer than images; captions of training images,
            evenly spaced, if not given.
        at_start: also before the first step.
        at_end: also after the last step.
    """

    @checked(num_images=COUNT, columns=COUNT, seed=SEED, labels=FROM_ZERO)
    def __init__(
        self,
        every_n_steps: int | None = 1000,
        num_images: int = 16,
        columns: int = 8,
        seed: int = 0,
        labels: Sequence[str | int] | None = None,
        prompts: Sequence[str] | None = None,
        at_start: bool = False,
        at_end: bool = True,
    ) -> None:
        if [] in (labels, prompts):
            raise ValueError("preview.labels or preview.prompts is an empty list: name some, or leave it out")
        super().__init__(every_n_steps, at_start, at_end)
        self.num_images, self.columns, self.seed = num_images, columns, seed
        self.labels = None if labels is None else list(labels)
        self.prompts = None if prompts is None else list(prompts)

    def check(self, pl_module: PixelGen, data: ImageData | None) -> None:
        """Refuse, with a ValueError, labels that do not exist, prompts for a network without text, or their lack."""
        for name, given in (("labels", self.labels), ("prompts", self.prompts)):
            try:
                if given is not None:
                    pl_module.conditioner.parse(given, len(given))
            except ValueError as error:
                raise ValueError(f"preview.{name} are {given}, but the network does not know them: {error}") from error
        self._requests(pl_module, data)

    def _requests(self, pl_module: PixelGen, data: ImageData | None) -> list[Any]:
        """What each image is made from."""
        given: Sequence[Any] | None = self.labels or self.prompts
        if given is None:
            return pl_module.conditioner.examples(self.num_images, data)
        parsed: Any = pl_module.conditioner.parse(given, len(given))
        requests = parsed.tolist() if isinstance(parsed, Tensor) else parsed
        return [requests[i % len(requests)] for i in range(self.num_images)]

    def run(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Sample on every rank (sharded networks need all of them); write on rank 0."""
        requests = self._requests(pl_module, data_of(trainer))
        condition = None if requests[0] is None else requests
        seeds = range(self.seed, self.seed + self.num_images)
        with sampling_mode(trainer, pl_module, eager=True):
            images = to_uint8(pl_module.sample(condition, seeds)).cpu()
        if trainer.is_global_zero:
            self._write(trainer, images, requests if isinstance(requests[0], str) else None)

    def _write(self, trainer: Trainer, images: Tensor, prompts: Sequence[str] | None) -> None:
        picture = grid(images, self.columns, prompts)
        scale = 1 if prompts is None else enlargement(images.shape[-1])
        folder = Path(trainer.default_root_dir) / "previews"
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / f"step_{trainer.global_step:07d}.png", flush=False) as temporary:
            picture.save(temporary, "PNG")
        self._write_progress(folder, trainer.global_step, scale * images.shape[-2], scale * images.shape[-1])
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("preview", np.asarray(picture), trainer.global_step, dataformats="HWC")
            elif hasattr(logger, "log_image"):  # Weights & Biases and those that follow its lead
                logger.log_image(key="preview", images=[picture], step=trainer.global_step)

    def _write_progress(self, folder: Path, step: int, height: int, width: int) -> None:
        """Put `progress.png` together from the pictures in the folder, so that a resumed run continues it."""
        files = [path for path in sorted(folder.glob("step_*.png")) if _step_of(path) <= step]
        rows = [files[i] for i in sorted({round(i) for i in np.linspace(0, len(files) - 1, ROWS)})]
        length = min(STRIP, self.num_images, self.columns) * (width + PADDING)
        canvas = Image.new("RGB", (MARGIN + length, len(rows) * (height + PADDING) + PADDING), "white")
        draw = ImageDraw.Draw(canvas)
        for row, path in enumerate(rows):
            top = PADDING + row * (height + PADDING)
            with Image.open(path, formats=["PNG"]) as preview:
                canvas.paste(preview.crop((PADDING, PADDING, PADDING + length, PADDING + height)), (MARGIN, top))
            draw.text((PADDING, top + height // 2), f"{_step_of(path)}", fill="black", anchor="lm")
        with atomic(folder / "progress.png") as temporary:
            canvas.save(temporary, "PNG")


def _step_of(preview: Path) -> int:
    return int(preview.stem.removeprefix("step_"))
