"""The callbacks of a run in named slots, so that a config changes one without repeating the others."""

from lightning.pytorch import Callback

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.preview import Preview
from pixelgen.callbacks.scores import FID, GenEval
from pixelgen.callbacks.skip_nonfinite import SkipNonFinite
from pixelgen.callbacks.skipped import Skipped
from pixelgen.callbacks.summary import Summary
from pixelgen.callbacks.throughput import Throughput
from pixelgen.checks import checked


class Callbacks:
    """What accompanies training; null switches a slot off.

    Example:
        python -m pixelgen.fit --config configs/demo.yaml --callbacks.more+=my_module.MyCallback

    Args:
        ema: averages of the weights.
        guard: skips steps that are not finite.
        throughput: images per second, MFU, memory.
        skipped: what streamed data has left out.
        preview: grids of samples.
        fid: Fréchet distance during training.
        geneval: GenEval's score of a few prompts during training.
        more: callbacks of your own, by class path; they run before the checkpoint is saved.
        checkpoint: saving.
        summary: table at the end.
    """

    @checked()
    def __init__(
        self,
        ema: EMA | None = None,
        guard: SkipNonFinite | None = None,
        throughput: Throughput | None = None,
        skipped: Skipped | None = None,
        preview: Preview | None = None,
        fid: FID | None = None,
        geneval: GenEval | None = None,
        more: list[Callback] | None = None,
        checkpoint: Checkpoint | None = None,
        summary: Summary | None = None,
    ) -> None:
        # averages come first, so that the others see the newest; the table comes last
        slots = (ema, guard, throughput, skipped, preview, fid, geneval, *(more or ()), checkpoint, summary)
        self.active: list[Callback] = [callback for callback in slots if callback is not None]
