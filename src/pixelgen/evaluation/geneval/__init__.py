"""GenEval (arXiv 2310.11513): does an image show the objects, numbers, colours and places of its prompt?"""

from pixelgen.evaluation.geneval.coco import CocoDetector
from pixelgen.evaluation.geneval.detectors import Detector
from pixelgen.evaluation.geneval.prompts import (
    Prompt,
    Wanted,
    geneval_prompts,
    prompts_sha256,
    read_prompts,
    spread,
    to_lines,
    write_prompts,
)
from pixelgen.evaluation.geneval.rules import Found, Verdict, judge_objects, relations
from pixelgen.evaluation.geneval.score import GenEvalScore, scores
from pixelgen.evaluation.geneval.shapes import ShapesDetector, shapes_prompts

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
