"""Side effects of training: averages, previews, evaluation, saving, safety and speed."""

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.evaluator import Evaluator
from pixelgen.callbacks.fid import FID
from pixelgen.callbacks.geneval import GenEval
from pixelgen.callbacks.preview import Preview
from pixelgen.callbacks.progress import Progress
from pixelgen.callbacks.skip_nonfinite import SkipNonFinite
from pixelgen.callbacks.skipped import Skipped
from pixelgen.callbacks.slots import Callbacks
from pixelgen.callbacks.summary import Summary
from pixelgen.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "FID",
    "Callbacks",
    "Checkpoint",
    "Evaluator",
    "GenEval",
    "Preview",
    "Progress",
    "SkipNonFinite",
    "Skipped",
    "Summary",
    "Throughput",
]
