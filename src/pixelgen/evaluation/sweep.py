"""What a sweep tries: every combination of averages, samplers, steps, guidance and its interval."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from jsonargparse import ArgumentParser

from pixelgen.config import one_sentence
from pixelgen.flow import Sampler
from pixelgen.samples.sampling import Average

SHARED = ("num_steps", "shift", "guidance", "guidance_min", "guidance_max", "t_eps")  # arguments that every sampler has

UNGUIDED = {"guidance": 1.0, "guidance_min": 0.0, "guidance_max": 1.0}


@dataclass(frozen=True)
class Row:
    """One set of images.

    Args:
        ema: average.
        sampler: with its guidance.
    """

    ema: Average
    sampler: Sampler

    @property
    def guided(self) -> tuple[bool, ...]:
        """At which steps the sampler is guided."""
        return tuple(self.sampler.active(t) for t in self.sampler.times[:-1])

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for rows that make the same images: intervals matter only by the steps in them, guidance if any is."""
        settings = {k: v for k, v in self.sampler.settings().items() if not k.startswith("guidance")}
        return self.ema, self.guided, self.sampler.guidance, *settings.values()

    def columns(self) -> dict[str, Any]:
        """What tells the row from others."""
        settings = self.sampler.settings()
        interval = f"{self.sampler.guidance_min:g}-{self.sampler.guidance_max:g}" if any(self.guided) else ""
        return {
            "ema": "first" if self.ema is True else str(self.ema),
            "sampler": settings["class"],
            "num_steps": settings["num_steps"],
            "shift": settings["shift"],
            "guidance": self.sampler.guidance,
            "interval": interval,
        }


def rows(
    own: Mapping[str, Any],
    ema: Sequence[Average],
    samplers: Sequence[str],
    num_steps: Sequence[int],
    guidance: Sequence[float],
    interval: Sequence[str],
) -> list[Row]:
    """Every combination that makes other images, averages outermost; what is not swept is as in the source's sampler.

    Raises:
        ValueError: naming what is no sampler or interval.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for average, name, steps, scale, span in product(
        ema, *([*values] or [None] for values in (samplers, num_steps, guidance, interval))
    ):
        changes: dict[str, Any] = {"num_steps": steps, "guidance": scale}
        if span is not None:
            changes |= dict(zip(("guidance_min", "guidance_max"), _interval(span), strict=True))
        changes = {key: value for key, value in changes.items() if value is not None}
        row = Row(average, _sampler(own, name, changes))
        if not any(row.guided):  # whatever the interval, it is one set
            row = Row(average, _sampler(own, name, changes | UNGUIDED))
        found.setdefault(row.key, row)
    return list(found.values())


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError as error:
        raise ValueError(f"{text!r} is no interval: write its ends as in 0.1-0.9") from error
    return low, high


def _sampler(own: Mapping[str, Any], name: str | None, changes: Mapping[str, Any]) -> Sampler:
    """A sampler like the source's own with changes; another class keeps what all samplers have."""
    arguments = dict(own.get("init_args") or {})
    if name is not None and name != own["class_path"].rpartition(".")[2]:
        arguments = {key: value for key, value in arguments.items() if key in SHARED}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sampler", type=Sampler)
    config = {"class_path": name or own["class_path"], "init_args": {**arguments, **changes}}
    try:
        sampler: Sampler = parser.instantiate(parser.parse_object({"sampler": config})).sampler
    except (ArgumentError, ValueError) as error:
        raise ValueError(one_sentence(error)) from error
    return sampler
