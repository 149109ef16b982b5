"""GenEval (arXiv 2310.11513): does an image show the objects, numbers, colours and places of its prompt?"""

from pixelgen.evaluation.geneval.detectors import CocoDetector, Detector, ShapesDetector
from pixelgen.evaluation.geneval.prompts import Prompt, geneval_prompts, shapes_prompts
from pixelgen.evaluation.geneval.rules import DetectedObject, Verdict, judge_objects
from pixelgen.evaluation.geneval.score import geneval_scores

__all__ = [
    "CocoDetector",
    "DetectedObject",
    "Detector",
    "Prompt",
    "ShapesDetector",
    "Verdict",
    "geneval_prompts",
    "geneval_scores",
    "judge_objects",
    "shapes_prompts",
]
