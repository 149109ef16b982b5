"""Whether an image shows what its prompt asks for: GenEval's rules (arXiv 2310.11513) as pure functions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pixelgen.evaluation.geneval.prompts import ObjectSpec, Prompt

CONFIDENCE, COUNTING_CONFIDENCE = 0.3, 0.9  # objects count above it, in the task `counting` above the second one
MAX_OBJECTS = 16  # of one class are considered, those of highest confidence
SLACK = 0.1  # share of the two sizes by which boxes must be apart to stand in a relation


@dataclass(frozen=True)
class DetectedObject:
    """One object that a detector found: class, box (left, upper, right, lower) in pixels, confidence in [0, 1].

    `source` is the detector's own: whatever it needs to tell the object's colour.
    """

    name: str
    box: tuple[float, float, float, float]
    confidence: float
    source: Any = None


@dataclass(frozen=True)
class Verdict:
    """Whether an image is right, and if not, every reason."""

    reasons: tuple[str, ...] = ()

    @property
    def correct(self) -> bool:
        """No reason against it."""
        return not self.reasons


ColorsOf = Callable[[Sequence[DetectedObject]], Sequence[str]]  # colours of objects of one class


def judge_objects(prompt: Prompt, objects: Sequence[DetectedObject], colors_of: ColorsOf) -> Verdict:
    """Test all objects found in an image for everything that its prompt includes and excludes.

    `colors_of` is called only where a colour is asked for and enough objects are there.
    """
    names = dict.fromkeys(spec.name for spec in (*prompt.include, *prompt.exclude))
    found = {name: confident(objects, name, prompt.task) for name in names}
    reasons: list[str] = []
    matched: list[list[DetectedObject] | None] = []
    for spec in prompt.include:
        group = found[spec.name][: spec.count]
        reason = _reason_against(spec, group, matched, colors_of)
        matched.append(None if reason else group)
        reasons += [reason] if reason else []
    for spec in prompt.exclude:
        if len(found[spec.name]) >= spec.count:
            reasons.append(f"wanted fewer than {spec.count} {spec.name}, found {len(found[spec.name])}")
    return Verdict(tuple(reasons))


def confident(objects: Sequence[DetectedObject], name: str, task: str) -> list[DetectedObject]:
    """The objects of one class that count in a task, those of highest confidence first."""
    threshold = COUNTING_CONFIDENCE if task == "counting" else CONFIDENCE
    kept = [thing for thing in objects if thing.name == name and thing.confidence > threshold]
    return sorted(kept, key=lambda thing: -thing.confidence)[:MAX_OBJECTS]


def _reason_against(
    spec: ObjectSpec, group: list[DetectedObject], matched: list[list[DetectedObject] | None], colors_of: ColorsOf
) -> str:
    """The first reason against one entry of what is included; empty if there is none."""
    if len(group) < spec.count:
        return f"wanted {spec.count} {spec.name}, found {len(group)}"
    if spec.color is not None:
        colors = list(colors_of(group))
        if colors.count(spec.color) < spec.count:
            return f"wanted {spec.count} {spec.color} {spec.name}, found {', '.join(colors)}"
    if spec.position is not None:
        relation, other = spec.position
        targets = matched[other]
        if targets is None:
            return f"nothing there for {spec.name} to be {relation}"
        for thing, target in product(group, targets):
            if relation not in (stands := relations(thing.box, target.box)):
                found = " and ".join(sorted(stands)) or "too near"
                return f"wanted {spec.name} {relation} {target.name}, found {found}"
    return ""


def relations(a: Sequence[float], b: Sequence[float]) -> set[str]:
    """How box a (left, upper, right, lower; y down) stands to box b; empty where they are too near each other."""
    offset = [(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1)]
    sizes = [abs(a[i + 2] - a[i]) + abs(b[i + 2] - b[i]) for i in (0, 1)]
    apart = [math.copysign(max(abs(d) - SLACK * size, 0), d) for d, size in zip(offset, sizes, strict=True)]
    if all(abs(d) < 1e-3 for d in apart):
        return set()
    dx, dy = (d / math.hypot(*offset) for d in apart)
    stands = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, holds in stands.items() if holds}
