"""GenEval's prompts: six tasks about objects, their number, colour and place, written by one seeded procedure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("two", "three", "four")

COCO = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
    clock, vase, scissors, teddy bear, hair drier, toothbrush""".replace("\n", " ")
    .replace("    ", "")
    .split(", ")
)
"""GenEval's names of the 80 classes, in the order of COCO."""


@dataclass(frozen=True)
class Wanted:
    """Objects that an image must show (or, among the excluded, must not show so many of).

    `position` is a relation and the number of the earlier entry that it refers to.
    """

    name: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None

    def metadata(self) -> dict[str, Any]:
        """As a line of GenEval's prompt file has it."""
        more: dict[str, Any] = {} if self.color is None else {"color": self.color}
        more |= {} if self.position is None else {"position": list(self.position)}
        return {"class": self.name, "count": self.count, **more}

    @staticmethod
    def parse(metadata: dict[str, Any]) -> Wanted:
        """The inverse of `metadata`."""
        position = metadata.get("position")
        place = None if position is None else (str(position[0]), int(position[1]))
        return Wanted(metadata["class"], int(metadata["count"]), metadata.get("color"), place)


@dataclass(frozen=True)
class Prompt:
    """A prompt with what an image made from it is tested for; `task` is GenEval's `tag`."""

    task: str
    include: tuple[Wanted, ...]
    text: str
    exclude: tuple[Wanted, ...] = ()

    def metadata(self) -> dict[str, Any]:
        """As a line of GenEval's prompt file has it."""
        exclude = {"exclude": [wanted.metadata() for wanted in self.exclude]} if self.exclude else {}
        include = [wanted.metadata() for wanted in self.include]
        return {"tag": self.task, "include": include, **exclude, "prompt": self.text}

    @staticmethod
    def parse(metadata: dict[str, Any]) -> Prompt:
        """The inverse of `metadata`.

        Raises:
            ValueError: if it lacks something.
        """
        try:
            include, exclude = (tuple(map(Wanted.parse, metadata.get(key, ()))) for key in ("include", "exclude"))
            return Prompt(metadata["tag"], include, metadata["prompt"], exclude)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{json.dumps(metadata)[:200]} is no prompt of GenEval: it needs tag, include and prompt ({error!r})"
            ) from error


def with_article(words: str) -> str:
    """`a red cup`, `an orange`."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def plural(name: str) -> str:
    """GenEval's plural, which knows no exceptions."""
    return name + ("es" if name.endswith("s") else "s")


def geneval_prompts() -> list[Prompt]:
    """The 553 published prompts."""
    return write_prompts(COCO)


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
    draw = _Draw(tuple(names), tuple(colors), max_count, np.random.default_rng(seed))
    drawn = [draw.single_object(int(i)) for i in draw.random.choice(len(names), size=len(names), replace=False)]
    several, many = len(names) > 1, len(colors) > 1
    tasks: list[tuple[bool, Callable[[], Prompt]]] = [
        (several, draw.two_object),
        (max_count > 1, draw.counting),
        (True, draw.colors),
        (several, draw.position),
        (several and many, draw.color_attr),
    ]
    for possible, task in tasks:
        drawn += [task() for _ in range(per_task if possible else 0)]
    return list(dict.fromkeys(drawn))


class _Draw:
    """Draws one prompt of a task at a time; the order of the draws is the published one."""

    def __init__(
        self, names: tuple[str, ...], palette: tuple[str, ...], max_count: int, random: np.random.Generator
    ) -> None:
        self.names, self.palette, self.max_count, self.random = names, palette, max_count, random
        start = names.index("person") + 1 if "person" in names else 0
        self.paintable = tuple(name for name in names[start:] + names[:start] if name != "person")

    def single_object(self, index: int) -> Prompt:
        name = self.names[index]
        return Prompt("single_object", (Wanted(name),), f"a photo of {with_article(name)}")

    def two_object(self) -> Prompt:
        a, b = self._two(self.names)
        return Prompt("two_object", (Wanted(a), Wanted(b)), f"a photo of {with_article(a)} and {with_article(b)}")

    def counting(self) -> Prompt:
        name = self._one(self.names)
        count = int(self.random.integers(2, self.max_count, endpoint=True))
        text = f"a photo of {NUMBERS[count - 2]} {plural(name)}"
        return Prompt("counting", (Wanted(name, count),), text, (Wanted(name, count + 1),))

    def colors(self) -> Prompt:
        name, color = self._one(self.paintable), self._one(self.palette)
        return Prompt("colors", (Wanted(name, color=color),), f"a photo of {with_article(f'{color} {name}')}")

    def position(self) -> Prompt:
        a, b = self._two(self.names)
        relation = self._one(RELATIONS)
        include = (Wanted(b), Wanted(a, position=(relation, 0)))
        return Prompt("position", include, f"a photo of {with_article(a)} {relation} {with_article(b)}")

    def color_attr(self) -> Prompt:
        (a, b), (c, d) = self._two(self.paintable), self._two(self.palette)
        text = f"a photo of {with_article(f'{c} {a}')} and {with_article(f'{d} {b}')}"
        return Prompt("color_attr", (Wanted(a, color=c), Wanted(b, color=d)), text)

    def _one(self, among: Sequence[str]) -> str:
        return among[int(self.random.choice(len(among)))]

    def _two(self, among: Sequence[str]) -> tuple[str, str]:
        a, b = self.random.choice(len(among), size=2, replace=False)
        return among[int(a)], among[int(b)]


def to_lines(prompts: Sequence[Prompt]) -> str:
    """GenEval's prompt file: one line of JSON for each prompt."""
    return "".join(json.dumps(prompt.metadata()) + "\n" for prompt in prompts)


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompt file, by which two sets of prompts are told apart."""
    return hashlib.sha256(to_lines(prompts).encode()).hexdigest()


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts from a file of GenEval's format.

    Raises:
        ValueError: naming the line that is wrong, or if there is no prompt.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of prompts {path}: give one line of JSON for each prompt, or a set's name")
    prompts = list(_parse(path))
    if not prompts:
        raise ValueError(f"{path} holds no prompts: give one line of JSON for each")
    return prompts


def _parse(path: Path) -> Iterator[Prompt]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            try:
                yield Prompt.parse(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def spread(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """At most `count` prompts, as many of each task as possible, evenly spaced over each, in their order."""
    tasks: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        tasks.setdefault(prompt.task, []).append(number)
    quota, left = dict.fromkeys(tasks, 0), min(count, len(prompts))
    while left:
        for task in [task for task in tasks if quota[task] < len(tasks[task])][:left]:
            quota[task] += 1
            left -= 1
    chosen = (tasks[task][i * len(tasks[task]) // n] for task, n in quota.items() for i in range(n))
    return [prompts[number] for number in sorted(chosen)]
