"""GenEval (arXiv 2310.11513): does an image show the objects, numbers, colours and places of its prompt?"""

from pixelgen.metrics.geneval.coco import CocoDetector
from pixelgen.metrics.geneval.detector import Detector
from pixelgen.metrics.geneval.prompts import (
    Prompt,
    Wanted,
    geneval_prompts,
    prompts_sha256,
    read_prompts,
    spread,
    to_lines,
    write_prompts,
)
from pixelgen.metrics.geneval.score import GenEvalScore, scores
from pixelgen.metrics.geneval.shapes import ShapesDetector, shapes_prompts
from pixelgen.metrics.geneval.verdict import Found, Verdict, judge_objects, relations

__all__ = [
    "CocoDetector",
    "Detector",
    "Found",
    "GenEvalScore",
    "Prompt",
    "ShapesDetector",
    "Verdict",
    "Wanted",
    "geneval_prompts",
    "judge_objects",
    "prompts_sha256",
    "read_prompts",
    "relations",
    "scores",
    "shapes_prompts",
    "spread",
    "to_lines",
    "write_prompts",
]
