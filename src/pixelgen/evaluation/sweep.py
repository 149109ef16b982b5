"""What a sweep tries, and its results: a table, a CSV, a plot, and the command line of the best row."""

import csv
import io
import shlex
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from rich.table import Table

from pixelgen.config import build
from pixelgen.files import write_text
from pixelgen.flow import Sampler
from pixelgen.samples.sampling import Average

MENTIONED = 5  # combinations that a message about many names
UNGUIDED: dict[str, Any] = {"guidance": 1.0, "guidance_min": 0.0, "guidance_max": 1.0}


@dataclass(frozen=True)
class Row:
    """One set of images: an average, and a sampler with its guidance."""

    ema: Average
    sampler: Sampler

    def __str__(self) -> str:
        sampler = self.sampler
        return f"guidance {sampler.guidance:g} on {sampler.guidance_min:g}-{sampler.guidance_max:g}"

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

    A warning names those that make the same images as another. A ValueError names what is no sampler or interval.
    """
    found: dict[Hashable, Row] = {}
    same: list[str] = []
    swept = [[*values] or [None] for values in (samplers, num_steps, guidance, interval)]
    for average, name, steps, scale, span in product(ema, *swept):
        changes: dict[str, Any] = {} if steps is None else {"num_steps": steps}
        changes |= ({} if scale is None else {"guidance": scale}) | ({} if span is None else _interval(span))
        asked = row = Row(average, _sampler(own, name, changes))
        if not any(row.guided):  # whatever the interval, it is one set
            row = Row(average, replace(row.sampler, **UNGUIDED))
        kept = found.setdefault(row.key, row)
        if (kept is not row or asked.sampler.guidance != 1) and str(kept) != str(asked):
            same.append(f"{asked} as {kept}")
    if same:
        more = f" and {len(same) - MENTIONED} more" if len(same) > MENTIONED else ""
        rank_zero_warn(f"the same images, which are made once: {'; '.join(same[:MENTIONED])}{more}")
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


# --- results


@dataclass(frozen=True)
class Result:
    """A set of images that was scored."""

    row: Row
    folder: Path
    scores: dict[str, float]  # by name; of the first one, lower is better
    command: str  # that generates the set

    def __str__(self) -> str:
        columns = ", ".join(f"{name} {value}" for name, value in self.row.columns().items())
        return columns + ": " + ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())


def write_csv(results: Sequence[Result], path: Path) -> None:
    """Write a line for each set: what was swept, its scores, and its folder."""
    file = io.StringIO()
    lines = [{**result.row.columns(), **result.scores, "folder": result.folder} for result in results]
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, file.getvalue(), "free some space")


def table_of(results: Sequence[Result]) -> Table:
    """The columns in which sets differ and their scores, the best one marked."""
    best = ranked(results)[0]
    names = varied([result.row for result in results])
    table = Table(*names, *results[0].scores, "")
    for result in results:
        columns = result.row.columns()
        scores = [f"{value:.4g}" for value in result.scores.values()]
        table.add_row(*(str(columns[name]) for name in names), *scores, "best" if result is best else "")
    return table


def ranked(results: Sequence[Result]) -> list[Result]:
    """Sets by their first score, the lowest first."""
    return sorted(results, key=lambda result: next(iter(result.scores.values())))


def plot(results: Sequence[Result], path: Path) -> bool:
    """The first score against guidance, a line for each EMA and what else was swept; false without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        rank_zero_warn("no plot: matplotlib is not installed (pip install 'pixelgen-lightning[demo]')")
        return False
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    name = next(iter(results[0].scores))
    lines = _lines(results, name)
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set(xlabel="guidance", ylabel="FID" if name == "fid" else name)
    if len(lines) > 1:
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return True


def _lines(results: Sequence[Result], name: str) -> dict[str, list[tuple[float, float]]]:
    """Points (guidance, score) of each line by its label; sets without guidance are on the lines of all intervals."""
    names = [column for column in varied([result.row for result in results]) if column not in ("guidance", "interval")]
    intervals = sorted({result.row.interval for result in results} - {""})
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        columns = result.row.columns()
        for interval in [result.row.interval] if result.row.interval else intervals or [""]:
            parts = [f"{column} {columns[column]}" for column in names]
            label = ", ".join([*parts, interval] if len(intervals) > 1 else parts)
            lines.setdefault(label, []).append((columns["guidance"], result.scores[name]))
    return lines


def sample_command(source: str | Path, row: Row, options: Mapping[str, Any]) -> str:
    """The command line that generates the images of a row; `options` are other flags of `pixelgen.sample`."""
    settings = row.sampler.settings()
    flags: dict[str, Any] = {} if row.ema is True else {"ema": row.ema}
    flags |= {"sampler": settings.pop("class")} | {f"sampler.{name}": value for name, value in settings.items()}
    words = ["python", "-m", "pixelgen.sample", str(source)]
    for name, value in (flags | {name: value for name, value in options.items() if value}).items():
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
    return shlex.join(words)
