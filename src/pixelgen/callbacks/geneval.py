"""GenEval's score of a few prompts during training."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer

from pixelgen.callbacks.periodic import find_ema, sampling_mode
from pixelgen.callbacks.scores import Evaluator
from pixelgen.conditioner import Text
from pixelgen.data import ImageData
from pixelgen.evaluation.geneval import Detector, GenEvalScore, Prompt, prompts_sha256, spread
from pixelgen.evaluation.geneval.sets import find_prompts
from pixelgen.flow import to_uint8


class GenEval(Evaluator):
    """Share of images that show what their prompts ask for, logged as `geneval/overall` and `geneval/<task>`.

    Image i is made from prompt i // `images_per_prompt` and seed `seed` + i mod `images_per_prompt`, whatever the
    number of processes: each makes and judges its share, and only verdicts are exchanged. With an EMA callback the
    first average is scored. Each evaluation appends its protocol to `<run>/evaluations.jsonl`. A few prompts tell
    whether training goes well; the number to report is that of `python -m pixelgen.geneval`.

    Args:
        detector: `ShapesDetector` for shapes, `CocoDetector` for GenEval's own prompts.
        prompts: `geneval`, `shapes` (those of the data, where it is `ShapesData`), or a file of GenEval's format.
        num_prompts: how many of them, evenly over the tasks; null for all.
        images_per_prompt: published: 4.
        every_n_steps: optimizer steps between two evaluations, or null for none in between.
        at_start: also before the first step.
        at_end: also after the last step.
        batch_size: images sampled at a time; does not change them.
        seed: of the first image of each prompt.
    """

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
        if min(1 if num_prompts is None else num_prompts, images_per_prompt, batch_size) < 1:
            raise ValueError("num_prompts, images_per_prompt and batch_size must be at least 1")
        super().__init__(every_n_steps, at_start, at_end)
        self.detector = detector
        self.prompts = prompts
        self.num_prompts = num_prompts
        self.images_per_prompt = images_per_prompt
        self.batch_size = batch_size
        self.seed = seed
        self._chosen: list[Prompt] = []

    def check(self, pl_module: Any, data: ImageData | None) -> None:
        """Choose the prompts, and check what evaluation will need.

        Raises:
            ValueError: if there are no such prompts, the detector does not know their objects, or the model does not
                take prompts.
        """
        if not isinstance(getattr(pl_module, "conditioner", None), Text):
            raise ValueError("callbacks.geneval makes images from prompts: give the model a text_encoder, or null here")
        prompts = find_prompts(self.prompts, data)
        self.detector.check(prompts)
        self._chosen = spread(prompts, self.num_prompts or len(prompts))

    def run(self, trainer: Trainer, pl_module: Any) -> None:
        """Generate, judge and log; the same values on every rank."""
        ema = find_ema(trainer)
        with sampling_mode(trainer, pl_module, eager=pl_module.device.type == "cpu"):
            scores = self._score(trainer, pl_module)
        values = {f"geneval/{name.removeprefix('task/')}": value for name, value in scores.items()}
        about = {
            **values,
            "prompts": len(self._chosen),
            "prompts_sha256": prompts_sha256(self._chosen),
            "seeds": [self.seed + i for i in range(self.images_per_prompt)],
            "average": None if ema is None else ema.names[0],
            "sampler": pl_module.sampler.settings(),
            **self.detector.protocol,
        }
        self.record(trainer, about)
        self.keep(trainer, values)

    def _score(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        self.detector.to(pl_module.device)
        images = [prompt for prompt in self._chosen for _ in range(self.images_per_prompt)]
        score = GenEvalScore(images).to(pl_module.device)
        for numbers in self._batches(len(images), trainer.global_rank, trainer.world_size):
            made = [min(number, len(images) - 1) for number in numbers]
            texts = [images[i].text for i in made]
            seeds = [self.seed + i % self.images_per_prompt for i in made]
            pictures = to_uint8(pl_module.sample(texts, seeds, batch_size=self.batch_size))
            wanted = [number for number in numbers if number < len(images)]
            if wanted:
                verdicts = self.detector.judge(pictures[: len(wanted)], [images[i] for i in wanted])
                score.update(wanted, [verdict.correct for verdict in verdicts])
        self.detector.to("cpu")  # Mask2Former and CLIP are 2 GB that training can use
        return score.compute()

    def _batches(self, total: int, rank: int, world_size: int) -> list[range]:
        """This rank's images by numbers; equally many on every rank, as sharded networks need, some past the end."""
        share = range(rank, rank + world_size * math.ceil(total / world_size), world_size)
        return [share[i : i + self.batch_size] for i in range(0, len(share), self.batch_size)]
