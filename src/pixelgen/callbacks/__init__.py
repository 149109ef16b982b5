"""Side effects of training: averages, previews, evaluation, saving, safety and speed."""

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.periodic import Periodic
from pixelgen.callbacks.preview import Preview
from pixelgen.callbacks.progress import Progress
from pixelgen.callbacks.scores import FID, Evaluator, GenEval
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
    "Periodic",
    "Preview",
    "Progress",
    "SkipNonFinite",
    "Skipped",
    "Summary",
    "Throughput",
]
