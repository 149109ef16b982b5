"""Sets of prompts by name."""

from __future__ import annotations

from pathlib import Path

from pixelgen.data.shapes import ShapesData
from pixelgen.evaluation.geneval.prompts import Prompt, geneval_prompts, read_prompts
from pixelgen.evaluation.geneval.shapes import shapes_prompts


def find_prompts(name: str, data: object = None) -> list[Prompt]:
    """`geneval`: the 553 published ones; `shapes`: the same tasks on drawn shapes; or those in a file.

    Args:
        name: of the set, or path of a file with one line of JSON for each prompt.
        data: the data module; shapes, colours and numbers are those of `ShapesData` where it is one.

    Raises:
        ValueError: if there is neither such a set nor such a file.
    """
    if name == "geneval":
        return geneval_prompts()
    if name == "shapes" and isinstance(data, ShapesData):
        return shapes_prompts(data.shapes, data.colors, data.max_objects)
    return shapes_prompts() if name == "shapes" else read_prompts(Path(name))
