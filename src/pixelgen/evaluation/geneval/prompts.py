"""GenEval's prompts: six tasks about objects, their number, colour and place, written by one seeded procedure."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixelgen.data.shapes import DEFAULT_COLORS, DEFAULT_SHAPES, ShapesData, plural, with_article

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("two", "three", "four")

_COCO = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
    clock, vase, scissors, teddy bear, hair drier, toothbrush"""
COCO = tuple(name.strip() for name in _COCO.split(","))  # GenEval's names of the 80 classes, in the order of COCO


@dataclass(frozen=True)
class ObjectSpec:
    """Objects of one class that an image must show (or, if excluded, must not show so many of).

    `position` is a relation and the number of the earlier entry that it refers to.
    """

    name: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None

    def metadata(self) -> dict[str, Any]:
        """As it stands in a line of GenEval's prompt file."""
        position = None if self.position is None else [*self.position]
        known = {"class": self.name, "count": self.count, "color": self.color, "position": position}
        return {name: value for name, value in known.items() if value is not None}

    @staticmethod
    def parse(metadata: dict[str, Any]) -> "ObjectSpec":
        """The inverse of `metadata`."""
        position = metadata.get("position")
        relation = None if position is None else (str(position[0]), int(position[1]))
        return ObjectSpec(metadata["class"], int(metadata["count"]), metadata.get("color"), relation)


@dataclass(frozen=True)
class Prompt:
    """A prompt with what an image generated from it is tested for; `task` is GenEval's `tag`."""

    task: str
    include: tuple[ObjectSpec, ...]
    text: str
    exclude: tuple[ObjectSpec, ...] = ()

    def metadata(self) -> dict[str, Any]:
        """As a line of GenEval's prompt file."""
        exclude = {"exclude": [spec.metadata() for spec in self.exclude]} if self.exclude else {}
        return {"tag": self.task, "include": [spec.metadata() for spec in self.include], **exclude, "prompt": self.text}

    @staticmethod
    def parse(metadata: dict[str, Any]) -> "Prompt":
        """The inverse of `metadata`; a ValueError tells that it lacks something."""
        try:
            include, exclude = (tuple(map(ObjectSpec.parse, metadata.get(key, ()))) for key in ("include", "exclude"))
            return Prompt(metadata["tag"], include, metadata["prompt"], exclude)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{json.dumps(metadata)[:200]} is no prompt of GenEval: it needs tag, include and prompt ({error!r})"
            ) from error


# --- sets of prompts


def find_prompts(name: str, data: object = None) -> list[Prompt]:
    """`geneval`: the 553 published ones; `shapes`: the same tasks on drawn shapes; or those in a file.

    Shapes, colours and numbers are those of the data module, where it is `ShapesData`.
    """
    if name == "geneval":
        return geneval_prompts()
    if name == "shapes" and isinstance(data, ShapesData):
        return shapes_prompts(data.shapes, data.colors, data.max_objects)
    return shapes_prompts() if name == "shapes" else read_prompts(Path(name))


def geneval_prompts() -> list[Prompt]:
    """The 553 published prompts."""
    return write_prompts(COCO)


def shapes_prompts(
    shapes: Sequence[str] = DEFAULT_SHAPES, colors: Sequence[str] = DEFAULT_COLORS, max_objects: int = 4
) -> list[Prompt]:
    """Prompts in the grammar of the captions of `ShapesData` with the same arguments, by GenEval's procedure."""
    prompts = write_prompts(shapes, colors, max_count=min(4, max_objects))
    return [prompt for prompt in prompts if len(prompt.include) <= max_objects]


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts from a file of GenEval's format; a ValueError names the line that is wrong."""
    if not path.is_file():
        raise ValueError(f"there is no file of prompts {path}: give one line of JSON for each prompt, or a set's name")
    prompts = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            prompts += [Prompt.parse(json.loads(line))] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not prompts:
        raise ValueError(f"{path} holds no prompts: give one line of JSON for each")
    return prompts


def to_lines(prompts: Sequence[Prompt]) -> str:
    """GenEval's prompt file: one line of JSON for each prompt."""
    return "".join(json.dumps(prompt.metadata()) + "\n" for prompt in prompts)


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompt file, which identifies a set of prompts."""
    return hashlib.sha256(to_lines(prompts).encode()).hexdigest()


def subset_by_task(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """At most `count` prompts (None: all), as many of each task as possible, evenly spaced, in their order."""
    tasks: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        tasks.setdefault(prompt.task, []).append(number)
    quota, left = dict.fromkeys(tasks, 0), len(prompts) if count is None else min(count, len(prompts))
    while left:
        for task in [task for task in tasks if quota[task] < len(tasks[task])][:left]:
            quota[task] += 1
            left -= 1
    chosen = (tasks[task][i * len(tasks[task]) // n] for task, n in quota.items() for i in range(n))
    return [prompts[number] for number in sorted(chosen)]


# --- GenEval's procedure


def write_prompts(
    names: Sequence[str], colors: Sequence[str] = COLORS, *, seed: int = 43, per_task: int = 100, max_count: int = 4
) -> list[Prompt]:
    """GenEval's procedure over any objects: six tasks drawn one after the other, without repetitions.

    Args:
        names: of the objects; "person" is never given a colour.
        colors: names of colours.
        seed: of the one generator that draws everything.
        per_task: how many prompts are drawn in each task but the first, which names every object once; repeated ones
            are dropped. Tasks that need two objects or colours are left out where there is only one.
        max_count: largest number of objects that is asked for, 2 to 4; below 2, nothing is counted.
    """
    random, several, many = np.random.default_rng(seed), len(names) > 1, len(colors) > 1
    start = [*names].index("person") + 1 if "person" in names else 0
    colored = [name for name in [*names[start:], *names[:start]] if name != "person"]

    def one(among: Sequence[str]) -> str:
        return among[int(random.choice(len(among)))]

    def two(among: Sequence[str]) -> list[str]:
        return [among[int(i)] for i in random.choice(len(among), size=2, replace=False)]

    def counting() -> Prompt:
        name, count = one(names), int(random.integers(2, max_count, endpoint=True))
        text = f"a photo of {NUMBERS[count - 2]} {plural(name)}"
        return Prompt("counting", (ObjectSpec(name, count),), text, (ObjectSpec(name, count + 1),))

    def position() -> Prompt:
        (a, b), relation = two(names), one(RELATIONS)
        text = f"a photo of {with_article(a)} {relation} {with_article(b)}"
        return Prompt("position", (ObjectSpec(b), ObjectSpec(a, position=(relation, 0))), text)

    def two_colors() -> Prompt:
        (a, b), (c, d) = two(colored), two(colors)
        return _prompt("color_attr", ObjectSpec(a, color=c), ObjectSpec(b, color=d))

    tasks: list[tuple[bool, Callable[[], Prompt]]] = [  # in the published order of the draws
        (several, lambda: _prompt("two_object", *map(ObjectSpec, two(names)))),
        (max_count > 1, counting),
        (True, lambda: _prompt("colors", ObjectSpec(one(colored), color=one(colors)))),
        (several, position),
        (several and many, two_colors),
    ]
    order = random.choice(len(names), size=len(names), replace=False)
    drawn = [_prompt("single_object", ObjectSpec(names[i])) for i in order]
    for possible, task in tasks:
        drawn += [task() for _ in range(per_task if possible else 0)]
    return list(dict.fromkeys(drawn))


def _prompt(task: str, *include: ObjectSpec) -> Prompt:
    """The prompt that names objects, with their colours, one after the other."""
    words = (spec.name if spec.color is None else f"{spec.color} {spec.name}" for spec in include)
    return Prompt(task, include, f"a photo of {' and '.join(map(with_article, words))}")
