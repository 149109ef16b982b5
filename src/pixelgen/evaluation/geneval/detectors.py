"""What finds objects in images and tells their colours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from pixelgen.evaluation.geneval.prompts import Prompt
from pixelgen.evaluation.geneval.rules import Found, Verdict, judge_objects


class Detector(nn.Module):
    """Finds the objects that prompts may ask for. Subclasses implement `detect` and `colors_of`.

    Args:
        names: of the objects that it finds.
        colors: that it tells apart.
        protocol: what stands beside scores: networks and their revisions, or the name of the rule.
    """

    def __init__(self, names: Sequence[str], colors: Sequence[str], protocol: dict[str, Any]) -> None:
        super().__init__()
        self.names, self.colors, self.protocol = tuple(names), tuple(colors), protocol

    def detect(self, images: Tensor) -> list[list[Found]]:
        """Objects in each of the uint8 images (B, 3, H, W), in any order, with their confidence."""
        raise NotImplementedError

    def colors_of(self, image: Tensor, objects: Sequence[Found]) -> list[str]:
        """Colour of each of some objects of one class, in a uint8 image (3, H, W) that they were found in."""
        raise NotImplementedError

    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> list[Verdict]:
        """Verdicts on uint8 images (B, 3, H, W), each made from its prompt."""
        return [
            judge_objects(prompt, objects, partial(self.colors_of, image))
            for prompt, image, objects in zip(prompts, images, self.detect(images), strict=True)
        ]

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that ask for what this detector cannot see.

        Raises:
            ValueError: naming the first such object or colour.
        """
        for prompt in prompts:
            for wanted in (*prompt.include, *prompt.exclude):
                for what, name, known in (
                    ("object", wanted.name, self.names),
                    ("colour", wanted.color, (None, *self.colors)),
                ):
                    if name not in known:
                        raise ValueError(
                            f"{type(self).__name__} knows no {what} {name!r} ({prompt.text!r}): give prompts and a "
                            "detector that belong together"
                        )
