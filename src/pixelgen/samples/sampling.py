"""How images are generated: one set of options for Python and every command."""

from dataclasses import dataclass

import torch

from pixelgen.checks import COUNT, SEED, check_fields
from pixelgen.flow import Sampler
from pixelgen.module import Precision

Average = bool | float | str
"""Which weights: True for the first EMA, False or `raw` for the raw weights, or the decay or name of an EMA."""


def default_precision() -> Precision:
    """`bf16-mixed`, or `32-true` where there is nothing but a CPU that only emulates bf16, which is far slower."""
    on_cpu = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-mixed" if on_cpu or torch.cuda.device_count() or torch.backends.mps.is_available() else "32-true"


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
        random_classes: draw the class of each image at random, by its seed, instead of taking all in turn.
        precision: of the network; `bf16-mixed` by default, except on a CPU that only emulates bf16.
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
    random_classes: bool = False
    precision: Precision = default_precision()
    batch_size: int = 64
    devices: int = 1
    num_nodes: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "", size=COUNT, seed=SEED, batch_size=COUNT, devices=COUNT, num_nodes=COUNT)
