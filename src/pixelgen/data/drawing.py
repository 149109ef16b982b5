"""Shapes, colours and backgrounds as arithmetic on pixel grids: what `shapes` composes and the judge reads back.

Coordinates are those of images: x to the right, y down, (0, 0) the upper left corner and (1, 1) the lower right.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# the ten colours of GenEval, in its order, as 8-bit sRGB
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (219, 38, 42),
    "orange": (246, 138, 22),
    "yellow": (247, 221, 44),
    "green": (42, 160, 66),
    "blue": (38, 84, 220),
    "purple": (128, 46, 176),
    "pink": (250, 134, 192),
    "brown": (112, 62, 26),
    "black": (18, 18, 20),
    "white": (246, 246, 244),
}
BACKGROUND_LIGHTNESS = (112.0, 158.0)  # a background's mean grey level: black and white both stand out
EXTENT = 1.3  # no shape of radius 1 reaches further than this from its centre, at any angle


def _circle(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 1


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.88


def _triangle(u: Array, v: Array) -> Array:
    """Equilateral, pointing up."""
    return np.maximum(np.abs(u) * (math.sqrt(3) / 2) - (v + 0.85) * 0.5, v - 0.85)


def _star(u: Array, v: Array) -> Array:
    """Five points: two reflections fold the plane onto half a point, whose edge is one straight line."""
    u, v = np.abs(u), 0.11 - v
    sin, cos = math.sin(math.pi / 5), math.cos(math.pi / 5)
    for x in (cos, -cos):
        behind = 2 * np.maximum(u * x - v * sin, 0)
        u, v = u - behind * x, v + behind * sin
    tip, notch = 1.15, 0.53
    across, along = notch * sin, tip - notch * cos
    return (np.abs(u) * along + (v - tip) * across) / math.hypot(across, along)


def _cross(u: Array, v: Array) -> Array:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - 1, np.minimum(u, v) - 0.34)


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.78) - 0.24


def _heart(u: Array, v: Array) -> Array:
    """A square standing on its corner with a round lobe on each upper side."""
    u, v = np.abs(u), 0.94 - v
    lobe = np.hypot(u - 0.425, v - 1.275) - 0.601
    body = np.maximum((u - v) * math.sqrt(0.5), (u + v - 1.7) * math.sqrt(0.5))
    return np.minimum(lobe, body)


def _crescent(u: Array, v: Array) -> Array:
    u = u - 0.19
    return np.maximum(np.hypot(u, v) - 1.08, 0.85 - np.hypot(u - 0.5, v))


_DISTANCES = (_circle, _square, _triangle, _star, _cross, _ring, _heart, _crescent)
SHAPES: dict[str, Callable[[Array, Array], Array]] = {distance.__name__[1:]: distance for distance in _DISTANCES}
"""Signed distance (negative inside, about exact near the edge) to each shape of radius 1, its upright box centred
on the origin, from the coordinates u (right) and v (down)."""


@lru_cache(maxsize=16)
def pixel_centres(size: int) -> Array:
    """Coordinates of the `size` pixel centres along one side, shape (size,)."""
    return ((np.arange(size) + 0.5) / size).astype(np.float32)


def coverage(
    shape: str, x: Array, y: Array, centre: tuple[float, float], radius: float, angle: float, pixel: float
) -> Array:
    """Share in [0, 1] of each pixel that a shape covers: the anti-aliased mask, of shape (len(y), len(x)).

    `x` and `y` are the pixel centres of the columns and rows, `pixel` the side of a pixel in the same unit as they,
    the centre and the radius; `angle` in degrees, clockwise.
    """
    cos, sin = math.cos(math.radians(angle)) / radius, math.sin(math.radians(angle)) / radius
    dx, dy = x[None, :] - centre[0], y[:, None] - centre[1]
    distance = SHAPES[shape](dx * cos + dy * sin, dy * cos - dx * sin)
    return np.clip(0.5 - distance * (radius / pixel), 0, 1)


def paint(image: Array, shape: str, rgb: Array, centre: tuple[float, float], radius: float, angle: float) -> None:
    """Paint one shape onto an image of floats (3, H, H), in place. Centre and radius in units of the side."""
    size = image.shape[-1]
    grid, reach = pixel_centres(size), EXTENT * radius
    rows, columns = (
        slice(max(0, int((c - reach) * size) - 1), min(size, int((c + reach) * size) + 2)) for c in centre[::-1]
    )
    alpha = coverage(shape, grid[columns], grid[rows], centre, radius, angle, 1 / size)
    window = image[:, rows, columns]
    window += alpha * (rgb[:, None, None] - window)


def _along(size: int, angle: float) -> Array:
    """Coordinate of each pixel along a direction, from the image's centre, (size, size)."""
    grid = pixel_centres(size) - 0.5
    return grid[None, :] * math.cos(angle) + grid[:, None] * math.sin(angle)


def _gradient(random: Random, size: int) -> Array:
    return _along(size, random.uniform(0, 2 * math.pi)) * 0.7 + 0.5


def _stripes(random: Random, size: int) -> Array:
    across = _along(size, random.uniform(0, math.pi)) * (2 * math.pi * random.uniform(2, 4.5))
    return np.clip(np.sin(across + random.uniform(0, 2 * math.pi)) * 1.5 + 0.5, 0, 1)


def _checker(random: Random, size: int) -> Array:
    phase = pixel_centres(size) * (2 * math.pi * random.uniform(1.5, 3))
    x, y = (np.clip(3 * np.sin(phase + random.uniform(0, 2 * math.pi)), -1, 1) for _ in range(2))
    return y[:, None] * x[None, :] * 0.5 + 0.5


@lru_cache(maxsize=64)
def _interpolation(knots: int, size: int) -> Array:
    """Matrix (size, knots) that interpolates smoothly between evenly spaced values."""
    away = np.abs(pixel_centres(size)[:, None] * (knots - 1) - np.arange(knots)[None, :])
    return (0.5 + 0.5 * np.cos(np.pi * np.minimum(away, 1))).astype(np.float32)


def _clouds(random: Random, size: int) -> Array:
    knots = random.randrange(4, 8)
    values = np.array([random.random() for _ in range(knots * knots)], dtype=np.float32).reshape(knots, knots)
    weights = _interpolation(knots, size)
    return weights @ values @ weights.T


def _tone(random: Random, lightness: float) -> Array:
    """A grey of the given lightness with a slight tint."""
    hue, chroma = random.uniform(0, 2 * math.pi), random.uniform(2, 14)
    return np.array([lightness + chroma * math.cos(hue + k * 2 * math.pi / 3) for k in range(3)], dtype=np.float32)


def background(random: Random, size: int) -> Array:
    """A calm background (3, size, size) in 0..255: a pattern between two tones of mid lightness and low saturation."""
    middle, contrast = random.uniform(*BACKGROUND_LIGHTNESS), random.uniform(6, 24) * random.choice((-1, 1))
    low, high = _tone(random, middle - contrast / 2), _tone(random, middle + contrast / 2)
    pattern = random.choice((_gradient, _stripes, _checker, _clouds))(random, size)
    return low[:, None, None] + (high - low)[:, None, None] * pattern
