"""What every denoiser offers to the trainer and the samplers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Denoiser(nn.Module):
    """Predicts the clean image from a noisy one (x-prediction).

    `forward(x_t, t, condition)` takes noisy images (B, C, H, W), times (B,) in [0, 1] (0 is noise) and the condition,
    and returns the predicted clean images, shaped like `x_t`.

    Subclasses set `blocks` and `hidden_size` and implement `initialise`, `forward_with_features`, `null_condition`,
    `last_layer`.

    Args:
        image_size: side of the training images in pixels.
        patch_size: side of a patch in pixels; must divide the image size.
        in_channels: channels of an image.
        num_classes: number of classes, or None for an unconditional network.
    """

    blocks: nn.ModuleList
    hidden_size: int

    def __init__(self, image_size: int, patch_size: int, in_channels: int = 3, num_classes: int | None = None) -> None:
        super().__init__()
        if image_size <= 0 or patch_size <= 0 or image_size % patch_size:
            raise ValueError(
                f"image size {image_size} is not divisible by patch size {patch_size}: "
                f"choose an image size that is a multiple of {patch_size}, or another patch size"
            )
        self.image_size = image_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.checkpoint_blocks = False

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predicted clean images, shaped like `x_t`."""
        return self.forward_with_features(x_t, t, condition)[0]

    def forward_with_features(
        self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, layer: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Prediction, and the patch tokens (B, N, D) *entering* block `layer` (None if `layer` is None)."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Draw all weights, and fill all buffers, anew; called after the network was built on the meta device."""
        raise NotImplementedError

    @property
    def last_layer(self) -> nn.Linear:
        """The last linear layer, whose weight the adaptive perceptual weight looks at."""
        raise NotImplementedError

    def null_condition(self, condition: Tensor | None) -> Tensor | None:
        """The condition that stands for "no condition", shaped like `condition`."""
        raise NotImplementedError

    def drop_condition(self, condition: Tensor | None, drop: Tensor) -> Tensor | None:
        """Replace the condition by the null condition where `drop` (B,) is true."""
        null = self.null_condition(condition)
        if condition is None or null is None:
            return None
        return torch.where(drop.view(-1, *[1] * (condition.ndim - 1)), null, condition)

    def compile_blocks(self) -> None:
        """Compile every block on its own. Names in checkpoints stay as they are."""
        for block in self.blocks:
            block.compile()

    def run_block(self, block: nn.Module, *args: Tensor) -> Tensor:
        """Call a block, recomputing its activations in the backward pass if `checkpoint_blocks` is set."""
        if self.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)
