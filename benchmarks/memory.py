"""GPU memory that training a denoiser takes, and the size of its checkpoints, without allocating either.

`python benchmarks/memory.py` prints both for the published sizes. The paper (arXiv 2602.02493) reports 29.5 GB for
L/16 with 32 images per GPU and no perceptual losses, 33.9 GB with them; the estimate without them is 30.3 GB.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pixelgen.models.denoiser import Denoiser
from pixelgen.models.sizes import Size, jit

if TYPE_CHECKING:
    from rich.table import Table

Strategy = Literal["ddp", "fsdp", "one"]
PUBLISHED: tuple[Size, ...] = ("B/16", "L/16", "XL/16", "H/16")
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training keeps on one GPU.

    Not counted: losses and their networks, images, what kernels and the optimizer's step need while they run, the CUDA
    context (about half a GB), and what the allocator loses to fragmentation.

    Args:
        weights: float32 parameters, trainable or not, and buffers.
        gradients: float32 gradients, and DDP's buckets for them.
        optimizer: Adam's two float32 moments.
        averages: float32 moving averages of the weights.
        activations: what the forward pass saves for the backward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all parts. It is an upper bound of their peak: gradients appear while activations are given back."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations


def training_memory(
    denoiser: Denoiser,
    batch_size: int,
    averages: int = 1,
    strategy: Strategy = "ddp",
    world_size: int = 1,
    checkpoint_blocks: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> TrainingMemory:
    """Memory per GPU of training a denoiser with Adam, uncompiled. Nothing is allocated, and nothing computed.

    Parameters, gradients, moments and averages are float32; those without gradient have only the first. With

    * `one`, a GPU holds each of them once.
    * `ddp`, gradients count twice: DDP reduces them in buckets, a second copy unless `gradient_as_bucket_view` is set,
      which `configs/overlay/ddp.yaml` does, but not Lightning by default.
    * `fsdp` (FSDP2, `fully_shard` on every block and on the whole), a GPU holds a share of each tensor, cut along its
      first dimension and rounded up. Whole float32 copies join the shares for a while: of what lies outside the
      blocks, which is kept from the forward to the backward pass, and of two blocks, the present one and the one
      fetched ahead. They count as weights. A block's whole gradient is as short-lived, and not counted.

    Args:
        denoiser: the network, best on the meta device: `with torch.device("meta"): jit("XL/16")`. It is left as it is.
        batch_size: images per GPU and step.
        averages: number of moving averages of the weights.
        strategy: how the GPUs share the work.
        world_size: number of GPUs that hold the shares of `fsdp`; the others do not depend on it.
        checkpoint_blocks: count activations as if blocks recomputed theirs, whatever the denoiser is set to.
        dtype: of mixed precision's matrix products; float32 for none.

    Raises:
        ValueError: for an unknown strategy, or numbers that make no sense.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"unknown strategy {strategy!r}: choose one of {', '.join(get_args(Strategy))}")
    if batch_size < 1 or world_size < 1 or averages < 0:
        raise ValueError(f"{batch_size} images, {world_size} GPUs, {averages} averages: give at least 1, 1 and 0")
    shares = world_size if strategy == "fsdp" else 1
    trained = FLOAT32 * share(trainable(denoiser), shares)
    whole = FLOAT32 * unsharded(denoiser) if strategy == "fsdp" else 0
    return TrainingMemory(
        weights=FLOAT32 * (share(denoiser.parameters(), shares) + share(denoiser.buffers())) + whole,
        gradients=(2 if strategy == "ddp" else 1) * trained,
        optimizer=2 * trained,
        averages=averages * trained,
        activations=activation_bytes(denoiser, batch_size, checkpoint_blocks, dtype),
    )


def checkpoint_bytes(denoiser: Denoiser) -> dict[str, int]:
    """Bytes of a checkpoint's parts: `raw` weights, `optimizer` (Adam's two moments), and each `average`, all float32.

    The fixed position embedding is in `raw` alone. Names, settings and step counters come to less than a megabyte.
    """
    trained = FLOAT32 * share(trainable(denoiser))
    raw = FLOAT32 * sum(value.numel() for value in denoiser.state_dict().values())
    return {"raw": raw, "optimizer": 2 * trained, "average": trained}


def trainable(denoiser: Denoiser) -> list[Tensor]:
    """Parameters that get a gradient."""
    return [parameter for parameter in denoiser.parameters() if parameter.requires_grad]


def share(parameters: Iterable[Tensor], shares: int = 1) -> int:
    """Numbers that one GPU holds when each tensor is cut along its first dimension, as FSDP2 cuts (rounded up)."""
    return sum(math.ceil(p.shape[0] / shares) * math.prod(p.shape[1:]) if p.ndim else 1 for p in parameters)


def unsharded(denoiser: Denoiser) -> int:
    """Parameters that FSDP2 holds whole at a time: all outside the blocks, and the two largest blocks."""
    blocks = sorted(share(block.parameters()) for block in denoiser.every_block())
    return share(denoiser.parameters()) - sum(blocks) + sum(blocks[-2:])


def activation_bytes(
    denoiser: Denoiser, batch_size: int, checkpoint_blocks: bool = False, dtype: torch.dtype = torch.bfloat16
) -> int:
    """Bytes that one forward pass in training saves for the backward pass, parameters left out.

    The denoiser's twin on the meta device, which has shapes but no values, makes one forward pass, and every
    storage that autograd saves counts once, whole. With `checkpoint_blocks`, that is what lies outside the blocks,
    the inputs of all blocks, and the inside of the one block that needs most, recomputed in the backward pass. The
    condition is a class, text states, or none.
    """
    twin = on_meta(denoiser).train()
    saved = SavedStorages(twin)
    size = (batch_size, twin.in_channels, twin.image_size, twin.image_size)
    with torch.enable_grad(), torch.device("meta"), saved.recorded(), GpuKernels(dtype):
        condition = None if twin.num_classes is None else torch.zeros(batch_size, dtype=torch.long)
        if twin.text_shape is not None:
            condition = torch.empty(batch_size, *twin.text_shape)
        twin(torch.empty(size), torch.empty(batch_size), condition)
    return saved.bytes(checkpoint_blocks)


def on_meta(denoiser: Denoiser) -> Denoiser:
    """A copy on the meta device, with float32 parameters, not compiled and without checkpointing."""
    twins: dict[int, Tensor] = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in denoiser.buffers()}
    for parameter in denoiser.parameters():
        empty = torch.empty(parameter.shape, device="meta")
        twins[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    twin = copy.deepcopy(denoiser, twins)  # which takes these where it would copy the originals
    twin.checkpoint_blocks = False
    return twin


class SavedStorages:
    """The storages that autograd saves in a forward pass: those outside the blocks, and those of each block.

    A storage counts whole even if only a view of it is saved: the value part of a fused projection keeps all three.

    Args:
        denoiser: the network whose forward pass will be watched; its blocks get hooks.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.parameters = {parameter.untyped_storage() for parameter in denoiser.parameters()}
        self.outside: set[UntypedStorage] = set()
        self.inputs: set[UntypedStorage] = set()
        self.blocks: list[set[UntypedStorage]] = []
        self._here = self.outside
        for block in denoiser.every_block():
            block.register_forward_pre_hook(self._enter)
            block.register_forward_hook(self._leave)

    def recorded(self) -> saved_tensors_hooks:
        """A context in which everything that autograd saves is noted."""
        return saved_tensors_hooks(self._note, lambda tensor: tensor)

    def bytes(self, checkpoint_blocks: bool) -> int:
        """Bytes at the peak."""
        if not checkpoint_blocks:
            return _bytes(self.outside.union(*self.blocks) - self.parameters)
        kept = (self.outside | self.inputs) - self.parameters
        return _bytes(kept) + max((_bytes(block - kept - self.parameters) for block in self.blocks), default=0)

    def _note(self, tensor: Tensor) -> Tensor:
        self._here.add(tensor.untyped_storage())
        return tensor

    def _enter(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.inputs |= {value.untyped_storage() for value in inputs if isinstance(value, Tensor)}
        self._here = set()
        self.blocks.append(self._here)

    def _leave(self, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._here = self.outside


def _bytes(storages: set[UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in storages)


class GpuKernels(TorchFunctionMode):
    """Does on the meta device what a GPU would do under autocast, as far as saved tensors depend on it.

    * The meta device has no autocast. Here linear layers, convolutions and matrix products take their arguments in
      `dtype`, as under autocast; so the copies of float32 weights that these save are counted.
    * On the meta device attention is computed from saved N × N weights. Here it is the flash kernel, which saves
      queries, keys, values, its output and a float32 per query and head; a mask is not counted.
    * Dropout there saves a mask of the values' type. Here it saves a byte per value.

    Args:
        dtype: of matrix products.
    """

    PRODUCTS = (F.linear, F.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.einsum)

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called instead of every function of torch."""
        kwargs = kwargs or {}
        if func in self.PRODUCTS:
            return func(*map(self._cast, args), **{name: self._cast(value) for name, value in kwargs.items()})
        if func is F.scaled_dot_product_attention:
            return _flash_attention(*map(self._cast, args), **kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, dropout_p: float = 0.0, **others: Any) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p)[0]
    return out


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


def table(batch_size: int = 32, world_size: int = 8, averages: int = 1) -> "Table":
    """GPU memory of training the published sizes at 256 pixels without losses, and the size of their checkpoints.

    Args:
        batch_size: images per GPU and step.
        world_size: number of GPUs.
        averages: number of moving averages of the weights.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    setting = f"{batch_size} images on each of {world_size} GPUs, averages: {averages}; * checkpointed blocks"
    found = Table(title=f"GB (10⁹ bytes) per GPU, and of saved files\n{setting}", box=SIMPLE, collapse_padding=True)
    found.add_column("size", vertical="bottom")
    for column in ("parameters", "DDP", "DDP *", "FSDP", "FSDP *", "saved\nraw", "saved\noptimizer", "each\naverage"):
        found.add_column(column, justify="right")
    for size in PUBLISHED:
        with torch.device("meta"):
            denoiser = jit(size)
        totals = [
            training_memory(denoiser, batch_size, averages, strategy, world_size, checkpoint_blocks).total
            for strategy in ("ddp", "fsdp")
            for checkpoint_blocks in (False, True)
        ]
        cells = [f"{count / 1e9:.1f}" for count in (*totals, *checkpoint_bytes(denoiser).values())]
        found.add_row(size, f"{share(denoiser.parameters()) / 1e6:.0f} M", *cells)
    return found


def main(args: list[str] | None = None) -> None:
    """Print the table; see `python benchmarks/memory.py --help`."""
    from jsonargparse import auto_cli
    from rich.console import Console

    try:
        Console().print(auto_cli(table, args=args))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
