"""Whether an image shows what its prompt asks for: GenEval's rules (arXiv 2310.11513) as pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pixelgen.evaluation.geneval.prompts import Prompt, Wanted

CONFIDENCE, COUNTING_CONFIDENCE = 0.3, 0.9
"""Objects are believed in above this confidence, in the task `counting` above the second one."""

MOST = 16
"""Objects of a class that are looked at."""

SLACK = 0.1
"""Share of the two sizes by which boxes must be apart to stand in a relation."""


@dataclass(frozen=True)
class Found:
    """One object that a detector has found: class, box (left, upper, right, lower) in pixels, confidence in [0, 1].

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


ColorOf = Callable[[Sequence[Found]], Sequence[str]]
"""Colours of objects of one class."""


def judge_objects(prompt: Prompt, objects: Sequence[Found], color_of: ColorOf) -> Verdict:
    """Test the objects of one image for everything that a prompt includes and excludes.

    Args:
        prompt: what is wanted.
        objects: all that was found, in any order; `believed` is applied to them here.
        color_of: called only where a colour is wanted and enough objects are there.
    """
    names = dict.fromkeys(wanted.name for wanted in (*prompt.include, *prompt.exclude))
    seen = {name: believed(objects, name, prompt.task) for name in names}
    reasons: list[str] = []
    matched: list[list[Found] | None] = []
    for wanted in prompt.include:
        group = seen[wanted.name][: wanted.count]
        against = _against(wanted, group, matched, color_of)
        matched.append(None if against else group)
        reasons += [against] if against else []
    for wanted in prompt.exclude:
        if len(seen[wanted.name]) >= wanted.count:
            reasons.append(f"wanted fewer than {wanted.count} {wanted.name}, found {len(seen[wanted.name])}")
    return Verdict(tuple(reasons))


def believed(objects: Sequence[Found], name: str, task: str) -> list[Found]:
    """The objects of one class that count in a task, surest first."""
    least = COUNTING_CONFIDENCE if task == "counting" else CONFIDENCE
    kept = [thing for thing in objects if thing.name == name and thing.confidence > least]
    return sorted(kept, key=lambda thing: -thing.confidence)[:MOST]


def _against(wanted: Wanted, group: list[Found], matched: list[list[Found] | None], color_of: ColorOf) -> str:
    """The first reason against one entry of what is included; empty if there is none."""
    if len(group) < wanted.count:
        return f"wanted {wanted.count} {wanted.name}, found {len(group)}"
    if wanted.color is not None:
        colors = list(color_of(group))
        if colors.count(wanted.color) < wanted.count:
            return f"wanted {wanted.count} {wanted.color} {wanted.name}, found {', '.join(colors)}"
    if wanted.position is not None:
        relation, other = wanted.position
        targets = matched[other]
        if targets is None:
            return f"nothing there for {wanted.name} to be {relation}"
        for thing in group:
            for target in targets:
                if relation not in (stands := relations(thing.box, target.box)):
                    found = " and ".join(sorted(stands)) or "too near"
                    return f"wanted {wanted.name} {relation} {target.name}, found {found}"
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
