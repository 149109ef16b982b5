"""The published sizes of the networks."""

from __future__ import annotations

from typing import Literal

from pixelgen.models.jit import JiT
from pixelgen.models.text_jit import TextJiT

Size = Literal["B/16", "B/32", "L/16", "L/32", "XL/16", "H/16", "H/32"]

# depth, hidden size, heads, bottleneck, block before which the class tokens enter, dropout
SIZES: dict[str, tuple[int, int, int, int | None, int, float]] = {
    "B": (12, 768, 12, 128, 4, 0.0),
    "L": (24, 1024, 16, 128, 8, 0.0),
    "XL": (28, 1152, 16, None, 8, 0.1),
    "H": (32, 1280, 16, 256, 10, 0.2),
}


def jit(
    size: Size = "L/16",
    input_size: int = 256,
    num_classes: int | None = 1000,
    proj_drop: float | Literal["published"] | None = "published",
) -> JiT:
    """A class-conditional network of a published size: JiT's B, L, H and PixelGen's L and XL.

    Args:
        size: letter and patch size in pixels.
        input_size: side of the training images in pixels.
        num_classes: number of classes, or null for an unconditional network.
        proj_drop: dropout of the middle blocks: `published` for the value of the size, null for none.
    """
    letter, _, patch = size.partition("/")
    depth, hidden_size, num_heads, bottleneck_dim, in_context_start, published_drop = SIZES[letter]
    return JiT(
        input_size=input_size,
        patch_size=int(patch),
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
        num_classes=num_classes,
        bottleneck_dim=bottleneck_dim,
        in_context_start=in_context_start,
        proj_drop=published_drop if proj_drop == "published" else proj_drop or 0.0,
    )


def text_jit(input_size: int = 512, mask_padding: bool = False) -> TextJiT:
    """The text-conditional network of the published size, XXL/16, for 128 states of Qwen3-1.7B.

    Args:
        input_size: side of the training images in pixels.
        mask_padding: look past padded text; as released, it is looked at.
    """
    return TextJiT(input_size=input_size, mask_padding=mask_padding)
