"""What the data has left out, in the logs."""

import torch
from lightning.pytorch import Trainer

from pixelgen.callbacks.periodic import Periodic, data_of, log
from pixelgen.module import PixelGen


class Skipped(Periodic):
    """Logs how many samples and shards the data has skipped since the start of training, `data/skipped/<reason>`.

    Of all processes together, and only the reasons that have occurred; nothing for data that skips nothing. Anything
    with a property `skipped`, counts by reason, as data module is asked.

    Args:
        every_n_steps: optimizer steps between two loggings.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__(every_n_steps)
        self.counts: dict[str, int] = {}

    def run(self, trainer: Trainer, pl_module: PixelGen) -> None:
        """Add up the counts of all processes, and log them."""
        own: dict[str, int] | None = getattr(data_of(trainer), "skipped", None)
        if own is None:
            return
        counts = torch.tensor(list(own.values()), device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            counts = trainer.strategy.reduce(counts, reduce_op="sum")
        self.counts = {reason: n for reason, n in zip(own, counts.tolist(), strict=True) if n}
        if self.counts:
            log(trainer, {f"data/skipped/{reason.replace(' ', '_')}": n for reason, n in self.counts.items()})
