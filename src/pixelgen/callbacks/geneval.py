"""GenEval's score of a few prompts during training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from pixelgen.callbacks.periodic import find_ema, sampling_mode
from pixelgen.callbacks.scores import Evaluator
from pixelgen.conditioner import Text
from pixelgen.distributed.processes import gather
from pixelgen.evaluation.geneval import Detector, geneval_scores
from pixelgen.evaluation.geneval.prompts import Prompt, find_prompts, prompts_sha256, subset_by_task
from pixelgen.module import PixelGen
from pixelgen.samples.generate import Request, stream


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
        self.detector, self.prompts, self.num_prompts = detector, prompts, num_prompts
        self.batch_size = batch_size
        self.seeds = range(seed, seed + images_per_prompt)
        self._chosen: list[Prompt] = []

    def check(self, pl_module: Any, data: Any) -> None:
        """Choose the prompts, and check what evaluation will need.

        Raises:
            ValueError: if there are no such prompts, the detector does not know their objects, or the model does not
                take prompts.
        """
        if not isinstance(pl_module.conditioner, Text):
            raise ValueError("callbacks.geneval makes images from prompts: give the model a text_encoder, or null here")
        prompts = find_prompts(self.prompts, data)
        self.detector.check(prompts)
        self._chosen = subset_by_task(prompts, self.num_prompts)

    def run(self, trainer: Trainer, pl_module: Any) -> None:
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
        self.record(trainer, values | protocol)
        self.keep(trainer, values)

    def _score(self, model: PixelGen, rank: int, world_size: int) -> dict[str, float]:
        images = [(prompt, seed) for prompt in self._chosen for seed in self.seeds]
        requests = [Request("", seed, prompt.text) for prompt, seed in images]
        verdicts: list[tuple[int, bool]] = []
        self.detector.to(model.device)
        for numbers, pixels in stream(model, requests, None, self.batch_size, rank, world_size):
            judged = self.detector.judge(pixels, [images[number][0] for number in numbers])
            verdicts += [(number, verdict.correct) for number, verdict in zip(numbers, judged, strict=True)]
        self.detector.to("cpu")  # Mask2Former and CLIP are 2 GB that training can use
        correct = dict(gather(verdicts))
        return geneval_scores([prompt for prompt, _ in images], [correct[i] for i in range(len(images))])
