"""Grids of images, with what each was made from underneath."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

PADDING = 2  # pixels between the images of a grid
READABLE = 128  # pixels that an image with a caption is at least wide
FONT_SIZE = 11  # pixels
LINES = 4  # of a caption at most


def grid(images: Tensor, columns: int, captions: Sequence[str] | None = None) -> Image.Image:
    """Images (N, C, H, W), uint8, in rows of `columns` with white lines of `PADDING` pixels between them.

    With captions, one for each image, small images are enlarged by `enlargement`, and the text stands below them.
    """
    if captions is None:
        return Image.fromarray(make_grid(images, columns, PADDING, pad_value=255).permute(1, 2, 0).numpy())
    scale = enlargement(images.shape[-1])
    height, width = (scale * side for side in images.shape[-2:])
    columns = min(columns, len(images))
    font = ImageFont.load_default(FONT_SIZE)
    texts = [_wrap(caption, width, font) for caption in captions]
    rows = [texts[i : i + columns] for i in range(0, len(texts), columns)]
    room = [FONT_SIZE * 5 // 4 * max(text.count("\n") + 1 for text in row) for row in rows]
    size = (PADDING + columns * (width + PADDING), PADDING + sum(height + 2 * PADDING + lines for lines in room))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(i, columns)
        left = PADDING + column * (width + PADDING)
        top = PADDING + sum(height + 2 * PADDING + lines for lines in room[:row])
        picture = Image.fromarray(image.permute(1, 2, 0).squeeze(-1).contiguous().numpy())
        canvas.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.multiline_text((left, top + height + PADDING), text, fill="black", font=font, spacing=2)
    return canvas


def enlargement(width: int) -> int:
    """By how much images with captions are enlarged, so that some words fit below them."""
    return max(1, -(-READABLE // width))


def _wrap(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Lines of at most `width` pixels, the last of them cut where there are more than `LINES`."""
    letters = max(1, int(width / font.getlength("n")))
    while True:
        lines = textwrap.wrap(text, letters, max_lines=LINES, placeholder=" …") or [""]
        if letters == 1 or all(font.getlength(line) <= width for line in lines):
            return "\n".join(lines)
        letters -= 1
