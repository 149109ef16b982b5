"""Reads shapes and colours back from images of `data.shapes`: a training-free judge of what a model drew."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric

from pixelgen.data.drawing import PALETTE, SHAPES, coverage
from pixelgen.data.shapes import class_names as all_class_names

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

SIDE = 64  # larger images are averaged down to so many pixels a side before they are judged
MIN_AREA, MAX_AREA = 0.012, 0.6  # shares of the image; smaller and larger regions are specks, and images of one colour
MIN_MATCH = 0.9  # likeness to a shape of what is named as one
MIN_PURITY, MAX_SPREAD = (
    0.8,
    50.0,
)  # share of its pixels nearest to its colour, and their deviation in RGB from the mean

# every background tone of data.drawing lies nearer than _OFF to the greys _GREY - _SPAN to _GREY + _SPAN
_GREY, _SPAN, _OFF = 135.0, 37.0, 38.0
_NEIGHBOURS = np.stack([np.zeros((3, 3)), ndimage.generate_binary_structure(2, 1), np.zeros((3, 3))])
_GRID = np.linspace(-2.1, 2.1, 29)  # where masks are sampled, in units of the radius of the disc with the same area


@dataclass(frozen=True)
class Detection:
    """One object found in an image.

    `box` is (left, upper, right, lower) in units of the image's side, `area` the covered share of the image, `match`
    the likeness of its mask to the best template of its shape, 1 if identical.
    """

    shape: str
    color: str
    box: tuple[float, float, float, float]
    area: float
    match: float


def judge(
    images: Tensor, shapes: Sequence[str] = tuple(SHAPES), colors: Sequence[str] = tuple(PALETTE)
) -> list[list[Detection]]:
    """Find the shapes in each image, largest first; no detection where nothing looks like a shape of one colour.

    Pixels far from every background tone form connected regions. A region's colour is that of most of its pixels. How
    far its pixels went from the background to that colour is its soft mask, which is normalised for place and area
    and compared with drawn templates of each shape at several angles and sizes.

    Args:
        images: uint8 of shape (B, 3, H, H).
        shapes: Names from `SHAPES` to choose between.
        colors: Names from `PALETTE` to choose between.

    Raises:
        ValueError: If `images` has another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"judge needs uint8 images of shape (B, 3, H, H), not {images.dtype} {tuple(images.shape)}")
    if len(images) == 0:
        return []
    small = images.detach().float()
    small = torch.nn.functional.adaptive_avg_pool2d(small, SIDE) if max(small.shape[-2:]) > SIDE else small
    pixels: Array = small.cpu().numpy()
    smooth = pixels
    for axis in (-2, -1):
        smooth = ndimage.convolve1d(smooth, np.array([0.25, 0.5, 0.25], dtype=np.float32), axis, mode="nearest")
    regions, count = ndimage.label(_distance_from_greys(smooth) > _OFF, structure=_NEIGHBOURS)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    found: list[list[Detection]] = [[] for _ in range(len(images))]
    unexplained = (regions > 0).sum((1, 2))
    for number, place in enumerate(ndimage.find_objects(regions), start=1):
        if not MIN_AREA <= sizes[number] / pixels[0, 0].size <= MAX_AREA:
            continue
        index, window = place[0].start, tuple(slice(max(0, s.start - 2), s.stop + 2) for s in place[1:])
        crop, inside = (index, slice(None), *window), regions[(index, *window)]
        detection = _identify(pixels[crop], smooth[crop], inside == number, inside > 0, tuple(shapes), tuple(colors))
        if detection is not None:
            found[index].append(_placed(detection, window, pixels.shape[-1]))
            unexplained[index] -= 2 * sizes[number]
    return [
        # mostly strange pixels that belong to no shape: what shapes there are came about by chance
        sorted(detections, key=lambda d: -d.area) if rest <= 0 else []
        for detections, rest in zip(found, unexplained, strict=True)
    ]


def _distance_from_greys(pixels: Array) -> Array:
    """Distance in RGB of each pixel from the nearest grey of mid lightness: (B, 3, H, W) to (B, H, W)."""
    lightness = pixels.mean(1)
    excess = np.maximum(np.abs(lightness - _GREY) - _SPAN, 0)
    return np.sqrt(3 * excess**2 + ((pixels - lightness[:, None]) ** 2).sum(1))


def _identify(
    pixels: Array, smooth: Array, region: Mask, regions: Mask, shapes: tuple[str, ...], colors: tuple[str, ...]
) -> Detection | None:
    """Colour and shape of one region, box and area in pixels of its window; None if it has no clear ones.

    The window (3, h, w) is given as it is and smoothed, with masks (h, w) of the region and of all regions.
    """
    core = ndimage.binary_erosion(region)
    core = core if core.sum() > 0.2 * region.sum() else region
    color, purity = _color(smooth[:, core], colors)
    if purity < MIN_PURITY or smooth[:, core].var(1).sum() > MAX_SPREAD**2:
        return None
    near = ndimage.binary_dilation(region)
    around = ~ndimage.binary_dilation(regions)
    ground = pixels[:, around].mean(1) if around.any() else np.full(3, _GREY)
    way = smooth[:, core].mean(1) - ground
    if way @ way < _OFF**2 / 4:
        return None
    mask = np.clip(np.tensordot(way, pixels - ground[:, None, None], 1) / (way @ way), 0, 1) * near
    matches = _templates(shapes) @ _normalised(mask).ravel()
    best = int(matches.argmax())
    if matches[best] < MIN_MATCH:
        return None
    rows, columns = (np.flatnonzero((mask > 0.5).any(axis)) for axis in (1, 0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    per_shape = len(matches) // len(shapes)
    return Detection(shapes[best // per_shape], color, box, float(mask.sum()), float(matches[best]))


def _placed(detection: Detection, window: tuple[slice, ...], side: int) -> Detection:
    """The detection in units of the whole image."""
    y, x = window[0].start, window[1].start
    left, upper, right, lower = detection.box
    box = ((left + x) / side, (upper + y) / side, (right + x) / side, (lower + y) / side)
    return replace(detection, box=box, area=detection.area / side**2)


def _color(pixels: Array, colors: tuple[str, ...]) -> tuple[str, float]:
    """The colour nearest to most of the pixels (3, N), and the share of them that it is nearest to."""
    palette = np.array([PALETTE[color] for color in colors], dtype=np.float32)
    nearest = ((pixels[None] - palette[:, :, None]) ** 2).sum(1).argmin(0)
    votes = np.bincount(nearest, minlength=len(colors))
    return colors[int(votes.argmax())], float(votes.max() / votes.sum())


def _normalised(mask: Array) -> Array:
    """A soft mask resampled about its centroid in units of the radius of its area, scaled to norm 1."""
    area = mask.sum()
    rows, columns = np.arange(mask.shape[0]), np.arange(mask.shape[1])
    y, x = float(mask.sum(1) @ rows / area), float(mask.sum(0) @ columns / area)
    grid = _GRID * math.sqrt(area / math.pi)
    where = np.stack(np.broadcast_arrays(y + grid[:, None], x + grid[None, :]))
    sampled = ndimage.map_coordinates(mask, where, order=1)
    return sampled / np.linalg.norm(sampled)


@lru_cache(maxsize=16)
def _templates(shapes: tuple[str, ...]) -> Array:
    """Normalised masks of each shape as drawn at several sizes in pixels and angles, one a row."""
    rows = []
    for shape in shapes:
        for radius in (4.5, 8.0, 18.0):
            grid = np.arange(-int(1.5 * radius) - 1, int(1.5 * radius) + 2, dtype=np.float32)
            for angle in range(-30, 31, 6):
                rows.append(_normalised(coverage(shape, grid, grid, (0, 0), radius, angle, 1)).ravel())
    return np.stack(rows)


class ShapesAccuracy(Metric):
    """Share of images whose largest object has the colour, the shape, and both, that its class asks for.

    An image in which `judge` finds nothing counts as wrong. The judge may answer any shape and colour that it knows,
    also those that are not among the classes.

    Args:
        class_names: Names such as "red circle"; by default those of `ShapesData`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    color: Tensor
    shape: Tensor
    both: Tensor
    total: Tensor

    def __init__(self, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.class_names = list(all_class_names() if class_names is None else class_names)
        self.targets = [(color, shape) for color, _, shape in (name.partition(" ") for name in self.class_names)]
        for name, (color, shape) in zip(self.class_names, self.targets, strict=True):
            if color not in PALETTE or shape not in SHAPES:
                raise ValueError(
                    f"{name!r} is no class of ShapesData: give names of a colour and a shape, 'red circle'"
                )
        for state in ("color", "shape", "both", "total"):
            self.add_state(state, torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Judge uint8 images (B, 3, H, H) made for classes (B,)."""
        for detections, label in zip(judge(images), labels.tolist(), strict=True):
            color, shape = self.targets[label]
            self.total += 1
            if detections:
                self.color += detections[0].color == color
                self.shape += detections[0].shape == shape
                self.both += detections[0].color == color and detections[0].shape == shape

    def compute(self) -> dict[str, Tensor]:
        """`color_accuracy`, `shape_accuracy` and `accuracy` (both right), each in [0, 1]."""
        hits = {"color_accuracy": self.color, "shape_accuracy": self.shape, "accuracy": self.both}
        return {name: right / self.total for name, right in hits.items()}
