"""GenEval's six tasks on the shapes of `data.shapes`, scored by the judge that reads them back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pixelgen.data.drawing import PALETTE, SHAPES
from pixelgen.data.shapes import DEFAULT_COLORS, DEFAULT_SHAPES
from pixelgen.evaluation.geneval.detectors import Detector
from pixelgen.evaluation.geneval.prompts import Prompt, write_prompts
from pixelgen.evaluation.geneval.rules import Found
from pixelgen.evaluation.shapes_judge import judge


def shapes_prompts(
    shapes: Sequence[str] = DEFAULT_SHAPES, colors: Sequence[str] = DEFAULT_COLORS, max_objects: int = 4
) -> list[Prompt]:
    """Prompts in the grammar of the captions of `ShapesData` with the same arguments, by GenEval's procedure."""
    if max_objects == 1:
        return [prompt for prompt in write_prompts(shapes, colors, max_count=1) if len(prompt.include) == 1]
    return write_prompts(shapes, colors, max_count=min(4, max_objects))


class ShapesDetector(Detector):
    """Finds shapes and their colours by rule (`metrics.judge`); an object's confidence is its likeness to its shape.

    Args:
        shapes: names from `SHAPES` to choose between.
        colors: names from `PALETTE` to choose between.
    """

    def __init__(self, shapes: Sequence[str] = tuple(SHAPES), colors: Sequence[str] = tuple(PALETTE)) -> None:
        super().__init__(shapes, colors, {"detector": "shapes judge"})

    def detect(self, images: Tensor) -> list[list[Found]]:
        """All that the judge names."""
        height, width = images.shape[-2:]
        return [
            [Found(thing.shape, _in_pixels(thing.box, width, height), thing.match, thing.color) for thing in detections]
            for detections in judge(images, self.names, self.colors)
        ]

    def colors_of(self, image: Tensor, objects: Sequence[Found]) -> list[str]:
        """As the judge has named them with their shapes."""
        return [thing.source for thing in objects]


def _in_pixels(box: tuple[float, float, float, float], width: int, height: int) -> tuple[float, float, float, float]:
    left, upper, right, lower = box
    return left * width, upper * height, right * width, lower * height
