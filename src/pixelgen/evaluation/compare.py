"""Results of a sweep: a table, a CSV, a plot, and the command line of the best row."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from rich.table import Table

from pixelgen.evaluation.sweep import Row, varied
from pixelgen.files import write_text


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
    """Write a line for each set: what was swept, its scores, and its folder.

    Raises:
        ValueError: if the file cannot be written.
    """
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
