"""The published sizes of the networks."""

from typing import Any, Literal

from pixelgen.models.jit import JiT
from pixelgen.models.text_jit import TextJiT

Size = Literal["B/16", "B/32", "L/16", "L/32", "XL/16", "H/16", "H/32"]

SIZES: dict[str, dict[str, Any]] = {  # arguments of `JiT`
    "B": dict(depth=12, hidden_size=768, num_heads=12, bottleneck_dim=128, in_context_start=4, proj_drop=0.0),
    "L": dict(depth=24, hidden_size=1024, num_heads=16, bottleneck_dim=128, in_context_start=8, proj_drop=0.0),
    "XL": dict(depth=28, hidden_size=1152, num_heads=16, bottleneck_dim=None, in_context_start=8, proj_drop=0.1),
    "H": dict(depth=32, hidden_size=1280, num_heads=16, bottleneck_dim=256, in_context_start=10, proj_drop=0.2),
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
    arguments = SIZES[letter] if proj_drop == "published" else SIZES[letter] | {"proj_drop": proj_drop or 0.0}
    return JiT(input_size, int(patch), num_classes=num_classes, **arguments)


def text_jit(input_size: int = 512, mask_padding: bool = False) -> TextJiT:
    """The text-conditional network of the published size, XXL/16, for 128 states of Qwen3-1.7B.

    Args:
        input_size: side of the training images in pixels.
        mask_padding: look past padded text; as released, it is looked at.
    """
    return TextJiT(input_size=input_size, mask_padding=mask_padding)
