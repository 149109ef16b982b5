"""How images are generated: one set of options for Python and every command."""

from __future__ import annotations

from dataclasses import dataclass

from pixelgen.checks import COUNT, SEED, check_fields
from pixelgen.flow import Sampler
from pixelgen.module import Precision

Average = bool | float | str
"""Which weights: True for the first EMA, False or `raw` for the raw weights, or the decay or name of an EMA."""


@dataclass(frozen=True)
class Sampling:
    """How images are generated.

    Args:
        sampler: another than the model's own; settings without a class change those of the model's own.
        ema: true for the first EMA, `raw` for the raw weights, or the decay or name of an EMA; `width0.07` is computed
            from the EMAs by width that the checkpoints of a run hold.
        size: height and width in pixels; the training size if not given.
        seed: image i is generated from seed + i.
        negative: prompt that guidance leads away from.
        precision: mixed precision of the network.
        batch_size: images between two progress updates and writes to disk; it does not change the images.
        devices: processes on this machine, one per GPU, or on the CPU.
        num_nodes: machines.
        compile: compile the blocks of the network first, which takes about a minute.
    """

    sampler: Sampler | None = None
    ema: Average = True
    size: tuple[int, int] | None = None
    seed: int = 0
    negative: str = ""
    precision: Precision = "bf16-mixed"
    batch_size: int = 64
    devices: int = 1
    num_nodes: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "", size=COUNT, seed=SEED, batch_size=COUNT, devices=COUNT, num_nodes=COUNT)
