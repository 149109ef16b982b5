"""GenEval's scores from verdicts, added up over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pixelgen.evaluation.geneval.prompts import Prompt


def scores(prompts: Sequence[Prompt], correct: Sequence[bool]) -> dict[str, float]:
    """Shares in [0, 1] of a set of images, from the prompt of each and whether it is right.

    Returns:
        `overall`, the mean of the tasks; `task/<name>`, share of right images of each task; `images`, share of right
        images of all; `prompts`, share of the prompts with at least one right image.
    """
    tasks: dict[str, list[bool]] = {}
    by_prompt: dict[Prompt, bool] = {}
    for prompt, right in zip(prompts, correct, strict=True):
        tasks.setdefault(prompt.task, []).append(right)
        by_prompt[prompt] = by_prompt.get(prompt, False) or right
    shares = {f"task/{task}": sum(rights) / len(rights) for task, rights in tasks.items()}
    overall = sum(shares.values()) / len(shares)
    images, some = sum(correct) / len(correct), sum(by_prompt.values()) / len(by_prompt)
    return {"overall": overall, **shares, "images": images, "prompts": some}


class GenEvalScore(Metric):
    """`scores` of a set of images of which each process judges its share.

    Args:
        prompts: of each image, in the order of their numbers. An image without verdict counts as wrong.
        options: of torchmetrics' `Metric`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    right: Tensor

    def __init__(self, prompts: Sequence[Prompt], **options: Any) -> None:
        super().__init__(**options)
        if not prompts:
            raise ValueError("there is no image to score: give at least one prompt")
        self.prompts = list(prompts)
        self.add_state("right", torch.zeros(len(prompts), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, numbers: Sequence[int], correct: Sequence[bool]) -> None:
        """Add verdicts on images by their numbers, each once over all processes."""
        self.right[list(numbers)] = torch.tensor(list(correct), dtype=torch.long, device=self.right.device)

    def compute(self) -> dict[str, float]:
        """As `scores`."""
        return scores(self.prompts, (self.right > 0).tolist())
