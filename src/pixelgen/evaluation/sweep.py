"""What a sweep tries: every combination of averages, samplers, steps, guidance and its interval."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from pixelgen.config import build
from pixelgen.flow import Sampler
from pixelgen.samples.sampling import Average

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
    def interval(self) -> str:
        """Times in which guidance is on; empty if it never is."""
        return f"{self.sampler.guidance_min:g}-{self.sampler.guidance_max:g}" if any(self.guided) else ""

    @property
    def key(self) -> Hashable:
        """Equal for rows that make the same images: intervals matter only by the steps in them, guidance if any is."""
        settings = {k: v for k, v in self.sampler.settings().items() if not k.startswith("guidance")}
        return self.ema, self.guided, self.sampler.guidance, *settings.values()

    def columns(self) -> dict[str, Any]:
        """What tells the row from others."""
        settings = self.sampler.settings()
        return {
            "ema": "first" if self.ema is True else str(self.ema),
            "sampler": settings["class"],
            "num_steps": settings["num_steps"],
            "shift": settings["shift"],
            "guidance": self.sampler.guidance,
            "interval": self.interval,
        }


def varied(table: Sequence[Row]) -> list[str]:
    """Names of the columns in which rows differ."""
    columns = [row.columns() for row in table]
    return [name for name in columns[0] if len({str(values[name]) for values in columns}) > 1]


def rows(
    own: Sampler,
    ema: Sequence[Average],
    samplers: Sequence[str],
    num_steps: Sequence[int],
    guidance: Sequence[float],
    interval: Sequence[str],
) -> list[Row]:
    """Every combination that makes other images, averages outermost; what is not swept is as in the sampler `own`.

    Raises:
        ValueError: naming what is no sampler or interval.
    """
    found: dict[Hashable, Row] = {}
    for average, name, steps, scale, span in product(
        ema, *([*values] or [None] for values in (samplers, num_steps, guidance, interval))
    ):
        changes: dict[str, Any] = {"num_steps": steps, "guidance": scale}
        changes = {key: value for key, value in changes.items() if value is not None}
        if span is not None:
            changes |= _interval(span)
        row = Row(average, _sampler(own, name, changes))
        if not any(row.guided):  # whatever the interval, it is one set
            row = Row(average, _sampler(own, name, changes | UNGUIDED))
        found.setdefault(row.key, row)
    return list(found.values())


def _interval(text: str) -> dict[str, float]:
    try:
        low, high = map(float, text.split("-"))
    except ValueError as error:
        raise ValueError(f"{text!r} is no interval: write its ends as in 0.1-0.9") from error
    return {"guidance_min": low, "guidance_max": high}


def _sampler(own: Sampler, name: str | None, changes: Mapping[str, Any]) -> Sampler:
    """The sampler with changes; one of another class keeps what all samplers have."""
    if name in (None, type(own).__name__):
        return replace(own, **changes)
    shared = {field.name: getattr(own, field.name) for field in fields(Sampler)}
    return build(Sampler, {"class_path": name, "init_args": {**shared, **changes}}, "sampler")
