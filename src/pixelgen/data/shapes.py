"""An unlimited labelled and captioned image set drawn by code: coloured shapes on calm backgrounds."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pixelgen.checks import COUNT, FROM_ZERO, Range, check_fields, checked
from pixelgen.data.drawing import PALETTE, SHAPES, background, paint
from pixelgen.data.images import ImageData, Item

DEFAULT_SHAPES = ("circle", "square", "triangle", "star")
DEFAULT_COLORS = tuple(PALETTE)

Placement = tuple[float, float, float]  # centre x, centre y and radius, in units of the image's side


@dataclass(frozen=True)
class ShapeObject:
    """One drawn object: centre and radius in units of the side (x right, y down), angle in degrees clockwise."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """What an image shows: its objects, GenEval task and caption; `label` is None unless there is one object."""

    objects: tuple[ShapeObject, ...]
    kind: str
    caption: str
    label: int | None


def class_names(shapes: Sequence[str] = DEFAULT_SHAPES, colors: Sequence[str] = DEFAULT_COLORS) -> list[str]:
    """Names such as "red circle"; class k is shape k // len(colors) in color k % len(colors)."""
    return [f"{color} {shape}" for shape in shapes for color in colors]


def with_article(words: str) -> str:
    """Words after their article, as in `a red circle` and `an orange circle`."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def plural(name: str) -> str:
    """GenEval's plural, which knows no exceptions."""
    return name + ("es" if name.endswith("s") else "s")


def _check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    if set(names) - set(known) or not names or len(set(names)) < len(names):
        raise ValueError(f"{what} is {list(names)}: give one or more different names out of {', '.join(known)}")


# GenEval's relations with the direction from the second object to the first
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_RADII = {1: (0.22, 0.38), 2: (0.15, 0.22), 3: (0.14, 0.19), 4: (0.13, 0.17)}  # ranges by the number of objects


def _placements(random: Random, count: int, relation: str | None) -> list[Placement]:
    """Placements without overlap; with a relation, the first stands so to the second, within 25 degrees."""
    while True:
        placements: list[Placement] = []
        for _ in range(40):
            radius = random.uniform(*_RADII[count])
            x, y = (random.uniform(1.2 * radius, 1 - 1.2 * radius) for _ in range(2))
            if all(_fits(other, (x, y, radius), relation) for other in placements):
                placements.append((x, y, radius))
            if len(placements) == count:
                return placements


def _fits(a: Placement, b: Placement, relation: str | None) -> bool:
    """Whether two objects are apart at any angle, and a stands in the relation to b."""
    dx, dy = a[0] - b[0], a[1] - b[1]
    distance = math.hypot(dx, dy)
    if distance < 1.2 * (a[2] + b[2]) + 0.06:
        return False
    if relation is None:
        return True
    x, y = RELATIONS[relation]
    return dx * x + dy * y > math.cos(math.radians(25)) * distance


def _caption(kind: str, objects: tuple[ShapeObject, ...], relation: str) -> str:
    """The prompt that GenEval would write for the scene."""
    shapes = [thing.shape for thing in objects]
    coloured = [f"{thing.color} {thing.shape}" for thing in objects]
    if kind == "counting":
        return f"a photo of {('two', 'three', 'four')[len(objects) - 2]} {plural(shapes[0])}"
    if kind == "position":
        return f"a photo of {with_article(shapes[0])} {relation} {with_article(shapes[1])}"
    words = coloured if kind in {"colors", "color_attr"} else shapes
    return "a photo of " + " and ".join(with_article(word) for word in words)


@dataclass(eq=False)
class ShapesDataset(Dataset[Item]):
    """Images of coloured shapes, each a pure function of (seed, key).

    Its length is nominal: any key >= 0 may be asked for, and each gives another image, so no epoch repeats one. The
    arguments are those of `ShapesData`; a ValueError says which name is unknown or repeated, or number out of range.
    """

    image_size: int = 32
    shapes: Sequence[str] = DEFAULT_SHAPES
    colors: Sequence[str] = DEFAULT_COLORS
    max_objects: int = 1
    captions: bool = False
    tasks: Mapping[str, float] | None = None
    seed: int = 0
    length: int = 50_000

    def __post_init__(self) -> None:
        ranges = {"image_size": Range(32, 256), "max_objects": Range(1, 4), "length": COUNT, "seed": FROM_ZERO}
        check_fields(self, "", **ranges)
        _check_names("shapes", self.shapes, SHAPES)
        _check_names("colors", self.colors, PALETTE)
        possible = self.possible_tasks
        weights = dict.fromkeys(possible, 1.0) if self.tasks is None else self.tasks
        _check_names("tasks", list(weights), possible)
        self._tasks = {task: weights[task] for task in possible if task in weights}  # in one order
        if min(self._tasks.values()) < 0 or not 0 < sum(self._tasks.values()) < math.inf:
            raise ValueError(f"tasks are {self._tasks}: give weights of at least 0, not all of them 0")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: int) -> Item:
        image, scene = self.draw(key)
        item: Item = {"image": image}
        if self.max_objects == 1:
            item["label"] = scene.label
        if self.captions:
            item["caption"] = scene.caption
        return item

    def __iter__(self) -> Iterator[Item]:
        """One nominal epoch."""
        return (self[index] for index in range(self.length))

    @property
    def possible_tasks(self) -> list[str]:
        """The GenEval tasks that so many shapes, colours and objects allow."""
        several, kinds = self.max_objects > 1, len(self.shapes) > 1
        possible = {
            "single_object": True,
            "colors": True,
            "counting": several,
            "two_object": several and kinds,
            "position": several and kinds,
            "color_attr": several and kinds and len(self.colors) > 1,
        }
        return [task for task, is_possible in possible.items() if is_possible]

    def draw(self, key: int) -> tuple[Tensor, Scene]:
        """Image `key`, uint8 (3, image_size, image_size), and the scene that it shows."""
        # not numpy's generators: setting one up for every image would take longer than the drawing
        random = Random((self.seed << 64) + key)
        scene = self._compose(random)
        image = background(random, self.image_size)
        for thing in scene.objects:
            light = random.uniform(-7, 7)
            rgb = np.array([c + light + random.uniform(-6, 6) for c in PALETTE[thing.color]], dtype=np.float32)
            paint(image, thing.shape, rgb, (thing.x, thing.y), thing.radius, thing.angle)
        return torch.from_numpy(np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)), scene

    def _compose(self, random: Random) -> Scene:
        """Choose a GenEval task, evenly among the possible ones or by weight, then objects, places and the caption."""
        shapes, colors = self.shapes, self.colors
        kinds, weights = list(self._tasks), list(self._tasks.values())
        # not by equal weights where there are none, which would take other random numbers
        kind = random.choice(kinds) if self.tasks is None else random.choices(kinds, weights)[0]
        count = 1 if kind in {"single_object", "colors"} else 2
        relation = random.choice(tuple(RELATIONS))
        if kind == "counting":
            count = random.randint(2, min(4, self.max_objects))
            names = [random.choice(shapes)] * count
        else:
            names = random.sample(shapes, count)
        paints = random.sample(colors, count) if kind == "color_attr" else [random.choice(colors) for _ in names]
        placements = _placements(random, count, relation if kind == "position" else None)
        objects = tuple(
            ShapeObject(name, color, *placement, random.uniform(-20, 20))
            for name, color, placement in zip(names, paints, placements, strict=True)
        )
        label = shapes.index(names[0]) * len(colors) + colors.index(paints[0]) if count == 1 else None
        return Scene(objects, kind, _caption(kind, objects, relation), label)


class ShapesData(ImageData):
    """Coloured shapes drawn by code: needs no files, never ends, and can be judged exactly (`evaluation.shapes_judge`).

    Class names read "red circle"; with several objects to an image there are no classes, only captions, in the
    grammar of GenEval: "a photo of a red circle and a blue square".

    Args:
        image_size: Side in pixels, 32 to 256.
        batch_size: Images per batch and process.
        num_workers: Loading processes per training process; 0 draws in the training process itself.
        seed: Fixes the images and their order.
        shapes: Which shapes: circle, square, triangle, star, cross, ring, heart, crescent.
        colors: Which colours, of the ten of GenEval.
        max_objects: Largest number of objects in an image, 1 to 4.
        captions: Whether batches carry captions.
        tasks: Weights of the GenEval tasks that images come from: single_object, colors, and with several objects
            counting, two_object, position, color_attr. Null for equal weights of all.
        length: Training images per epoch; every epoch draws new ones.
        val_length: Number of validation images, drawn from a sequence of their own.
    """

    @checked(image_size=Range(32, 256), max_objects=Range(1, 4), length=COUNT, val_length=COUNT)
    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        shapes: list[str] = list(DEFAULT_SHAPES),  # noqa: B006  (never written to; jsonargparse shows it)
        colors: list[str] = list(DEFAULT_COLORS),  # noqa: B006
        max_objects: int = 1,
        captions: bool = False,
        tasks: dict[str, float] | None = None,
        length: int = 50_000,
        val_length: int = 1_000,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        self._settings = (image_size, shapes, colors, max_objects, captions, tasks)
        self.shapes, self.colors, self.max_objects, self.captions = list(shapes), list(colors), max_objects, captions
        self.length, self.val_length = length, val_length
        self.class_names = class_names(shapes, colors) if max_objects == 1 else None
        self.train_dataset(), self.val_dataset()  # refuse wrong arguments now

    def train_dataset(self) -> ShapesDataset:
        """The endless training sequence."""
        return ShapesDataset(*self._settings, 2 * self.seed, self.length)

    def val_dataset(self) -> ShapesDataset:
        """The validation sequence, which shares no random number with any training sequence."""
        return ShapesDataset(*self._settings, 2 * self.seed + 1, self.val_length)
