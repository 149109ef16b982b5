"""Reads colours and shapes back from images of `data.shapes`: an exact, training-free judge of what a model drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric

from ..data.drawing import PALETTE, SHAPES, coverage

Array = NDArray[np.floating[Any]]

FINEST = 64
"""Images are averaged down to about this many pixels a side before they are judged."""

_GREY = (135.0, 37.0)
_FOREGROUND = 38.0
_MIN_PIXELS = 12
_GRID = 28
_REACH = 2.1
_ANGLES = tuple(range(-30, 31, 6))


@dataclass(frozen=True)
class Detection:
    """One object found in an image.

    `box` is (left, upper, right, lower) in units of the image's side, `area` the covered share of the image, `match`
    the likeness of its mask to the best template of its shape, 1 at best.
    """

    shape: str
    color: str
    box: tuple[float, float, float, float]
    area: float
    match: float


def judge(
    images: Tensor, shapes: Sequence[str] = tuple(SHAPES), colors: Sequence[str] = tuple(PALETTE)
) -> list[list[Detection]]:
    """Find the coloured shapes in each image, largest first; none where nothing is like a shape of one colour.

    Pixels far from every background tone are grouped into connected regions. A region's colour is that of most of its
    pixels; its soft mask, how far each pixel has gone from the background to that colour, is normalised for place and
    area and compared with templates of each shape at several angles.

    Args:
        images: uint8 (B, 3, H, H).
        shapes: Names from `SHAPES` to choose between.
        colors: Names from `PALETTE` to choose between.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"judge needs uint8 images (B, 3, H, W), not {images.dtype} {tuple(images.shape)}")
    pixels = _downscale(images)
    smooth = _smooth(pixels)
    regions, count = ndimage.label(_off_grey(smooth) > _FOREGROUND, structure=_IN_PLANE)
    found: list[list[Detection]] = [[] for _ in images]
    for number, place in enumerate(ndimage.find_objects(regions, count), start=1):
        index, rows, columns = place[0].start, _wider(place[1], 2), _wider(place[2], 2)
        region = regions[index, rows, columns] == number
        if region.sum() < _MIN_PIXELS:
            continue
        others = regions[index, rows, columns] > 0
        window, smooth_window = pixels[index, :, rows, columns], smooth[index, :, rows, columns]
        detection = _identify(window, smooth_window, region, others, tuple(shapes), tuple(colors))
        ...
    return found
