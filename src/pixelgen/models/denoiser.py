"""What every denoiser offers to the trainer and the samplers."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import lookup_backend
from torch.utils.checkpoint import checkpoint

from pixelgen.checks import COUNT, checked

_EXTRAS = {
    "blocks": "its blocks in order, an nn.ModuleList",
    "hidden_size": "the width of its tokens",
    "last_layer": "a property that returns its last linear layer",
    "initialise": "a method that draws all weights and fills all buffers anew",
    "forward_with_features": "a method that also returns the tokens entering a block",
}


class Denoiser(nn.Module, ABC):
    """Predicts the clean image from a noisy one (x-prediction).

    A subclass implements `forward`. Some options need more: REPA `hidden_size`, `blocks` and `forward_with_features`;
    the adaptive weight `last_layer`; compiling and recomputing blocks, and FSDP2, `blocks` (called by `run_block`) and
    `initialise`. A denoiser whose conditions are text embeddings (B, L, E) sets `text_shape` to (L, E).

    Args:
        image_size: side of the training images in pixels.
        patch_size: side of a patch in pixels; must divide the image size.
        in_channels: channels of an image.
        num_classes: number of classes, or None for an unconditional network.
    """

    blocks: Any  # as for `last_layer`, a subclass need not have them
    text_shape: tuple[int, int] | None = None
    mask_padding = False
    hidden_size = 0

    @checked(image_size=COUNT, patch_size=COUNT, in_channels=COUNT, num_classes=COUNT)
    def __init__(
        self, image_size: int, patch_size: int = 1, in_channels: int = 3, num_classes: int | None = None
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"image size {image_size} is not divisible by patch size {patch_size}: "
                f"choose an image size that is a multiple of {patch_size}, or another patch size"
            )
        self.image_size, self.patch_size = image_size, patch_size
        self.in_channels, self.num_classes = in_channels, num_classes
        self.checkpoint_blocks = False

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Noisy images (B, C, H, W) and their times (B,) in [0, 1], 0 is noise → predicted clean images.

        The condition is class indices (B,), text embeddings (B, L, E), or None for an unconditional network.
        """

    def forward_with_features(
        self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, layer: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Prediction, and the patch tokens (B, N, D) *entering* block `layer` (None if `layer` is None)."""
        if layer is not None:
            self.require("the hidden tokens of a block", "forward_with_features")
        return self.forward(x_t, t, condition), None

    def initialise(self) -> None:
        """Draw all weights, and fill all buffers, anew; called after the network was built on the meta device."""
        self.require("a network built on the meta device", "initialise")

    def require(self, option: str, *names: str) -> None:
        """Check that the network has those attributes and methods that an option needs beside `forward`."""
        if missing := [f"`{name}` ({_EXTRAS[name]})" for name in names if self._lacks(name)]:
            needs = f"{option} needs more of {type(self).__name__} than `forward`"
            raise ValueError(f"{needs}: add {' and '.join(missing)}")

    def _lacks(self, name: str) -> bool:
        """Whether an attribute has no value, or a method is only the one of this class."""
        value = getattr(self, name, None)
        if name == "blocks":
            return not isinstance(value, nn.ModuleList)
        return value in (None, 0) or getattr(value, "__func__", None) is getattr(Denoiser, name, self)

    def every_block(self) -> list[nn.Module]:
        """What is compiled, recomputed and split over processes one by one: `blocks`, and others a subclass has."""
        return [] if self._lacks("blocks") else list(self.blocks)

    def compile_blocks(self, dynamic: bool | None = None) -> None:
        """Compile every block on its own, for any batch size if `dynamic` is true, once it varies if it is None.

        Where that fails, as without a C++ compiler, blocks run uncompiled, with a warning.
        """
        self.require("compile_blocks", "blocks")
        for block in self.every_block():
            block.compile(dynamic=dynamic, backend=inductor_or_eager)

    def run_block(self, block: nn.Module, *args: Tensor | None) -> Tensor:
        """Call a block, recomputing its activations in the backward pass if `checkpoint_blocks` is set."""
        if self.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


class _Compiler:
    """torch's own compiler; from its first failure on, code runs as it is."""

    failed = False

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        if not self.failed:
            try:
                return lookup_backend("inductor")(graph, inputs)
            except Exception as error:  # of any kind: no compiler, no headers, a cache that cannot be written
                self.failed, reason = True, " ".join(str(error).split())[:200]
                warnings.warn(
                    f"compiling failed, and the network runs uncompiled, which is slower ({reason}): install a C++ "
                    "compiler such as g++ with the headers of Python, or set compile_blocks to false",
                    stacklevel=2,
                )
        return graph.forward


inductor_or_eager = _Compiler()
