"""What a sweep ends in: a table, a CSV, a plot, and the command line of the best row."""

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

from pixelgen.evaluation.sweep import Row

Scores = dict[str, float]  # by name; of the first one, lower is better


@dataclass(frozen=True)
class Result:
    """A set of images that was scored."""

    row: Row
    folder: Path
    scores: Scores


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text)
        unfinished.replace(path)
    except OSError as error:
        raise ValueError(f"could not write {path} ({error}): free some space") from error


def write_csv(results: Sequence[Result], path: Path) -> None:
    """A line for each set: what was swept, its numbers, and its folder."""
    file = io.StringIO()
    lines = [{**result.row.columns(), **result.scores, "folder": result.folder} for result in results]
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_whole(path, file.getvalue())


def table_of(results: Sequence[Result]) -> Table:
    """The columns in which sets differ and their numbers, the best one marked."""
    best = ranked(results)[0]
    columns = [result.row.columns() for result in results]
    varied = [name for name in columns[0] if len({str(values[name]) for values in columns}) > 1]
    table = Table(*varied, *results[0].scores, "")
    for result, values in zip(results, columns, strict=True):
        scores = [f"{value:.4g}" for value in result.scores.values()]
        table.add_row(*(str(values[name]) for name in varied), *scores, "best" if result is best else "")
    return table


def ranked(results: Sequence[Result]) -> list[Result]:
    """Sets by their first number, the lowest first."""
    return sorted(results, key=lambda result: next(iter(result.scores.values())))


def plot(results: Sequence[Result], path: Path) -> bool:
    """The first number against guidance, a line for each average and what else was swept; false without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        rank_zero_warn("no plot: matplotlib is not installed (pip install 'pixelgen-lightning[demo]')")
        return False
    columns = [result.row.columns() for result in results]
    apart = [n for n in columns[0] if n not in ("guidance", "interval") and len({str(c[n]) for c in columns}) > 1]
    spans = sorted({c["interval"] for c in columns if c["interval"]})
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    name = next(iter(results[0].scores))
    lines: dict[str, list[tuple[float, float]]] = {}
    for values, result in zip(columns, results, strict=True):
        for span in [values["interval"]] if values["interval"] else spans or [""]:  # unguided ones are on every line
            label = ", ".join([*(f"{n} {values[n]}" for n in apart), *([span] if len(spans) > 1 else [])])
            lines.setdefault(label, []).append((values["guidance"], result.scores[name]))
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set(xlabel="guidance", ylabel="FID" if name == "fid" else name)
    if len(lines) > 1:
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return True


def command(source: str | Path, row: Row, options: Mapping[str, Any]) -> str:
    """What samples from the same model in the same way."""
    settings = row.sampler.settings()
    words = ["python", "-m", "pixelgen.sample", str(source)]
    if row.ema is not True:
        words += ["--ema", str(row.ema)]
    words += ["--sampler", settings.pop("class")]
    for name, value in settings.items():
        words += [f"--sampler.{name}", str(value).lower() if isinstance(value, bool) else f"{value}"]
    for name, value in options.items():
        several = value if isinstance(value, list | tuple) else [] if value is True else [value]
        words += [f"--{name}", *map(str, several)]
    return shlex.join(words)


def numbers(scores: Scores) -> str:
    """Numbers in words."""
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
