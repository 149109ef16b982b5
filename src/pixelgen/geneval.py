"""`python -m pixelgen.geneval runs/text`: GenEval's images of a text model, their verdicts and the scores."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning import Fabric
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pixelgen.cli.command import stop_on_bad_input
from pixelgen.cli.former import add_flags, parse
from pixelgen.data.shapes import ShapesData
from pixelgen.distributed.processes import Precision, agree, launch
from pixelgen.evaluation.geneval import (
    CocoDetector,
    Detector,
    Prompt,
    ShapesDetector,
    geneval_prompts,
    prompts_sha256,
    scores,
    spread,
)
from pixelgen.evaluation.geneval.folder import find_samples, judge_samples, lay_out, sample_path
from pixelgen.evaluation.geneval.journal import Journal
from pixelgen.evaluation.geneval.sets import find_prompts
from pixelgen.flow import Sampler
from pixelgen.prompted import FLAGS as SIZE
from pixelgen.prompted import Manner, make_prompted
from pixelgen.runs.run import Run
from pixelgen.samples.sampling import Average
from pixelgen.samples.settings import SETTINGS

SCORES, RESULTS = "geneval.json", "results.jsonl"
NOTE = (
    "Where fine-tuning data contains GenEval-style prompts, as BLIP3o-60k does, the score is in-distribution: "
    "say so beside it."
)
FLAGS = {
    **SIZE,
    "generate_only": {"action": "store_true", "help": "make the images, score nothing"},
    "score_only": {"action": "store_true", "help": "score a folder of images in GenEval's layout, whoever made them"},
}
SHAPES_NOTE = "A model of drawn shapes was trained on captions of these prompts' grammar: the score is in-distribution."


def geneval(
    source: str | Path,
    to: str | Path | None = None,
    prompts: str = "geneval",
    images_per_prompt: int = 4,
    num_prompts: int | None = None,
    seed: int = 0,
    negative: str = "",
    sampler: Sampler | None = None,
    ema: Average = True,
    size: tuple[int, int] | None = None,
    precision: Precision = "bf16-mixed",
    batch_size: int = 64,
    devices: int = 1,
    num_nodes: int = 1,
    detector: Detector | None = None,
    generate_only: bool = False,
    score_only: bool = False,
) -> Path:
    """Make the images of GenEval with a text model, in GenEval's own folder layout, and score them.

    Every prompt gets the same seeds: `seed`, `seed` + 1, … . The same command goes on where it was stopped; what is
    there is kept. `geneval.json` has scores and protocol, `results.jsonl` the verdict on each image.

    Args:
        source: run folder, checkpoint or export of a text model; with `score_only` a folder of images.
        to: folder to write into; `geneval/<average, step, sampler and a hash of all settings>` in the run if not given.
        prompts: `geneval`, the 553 published ones; `shapes`, the same tasks on the shapes, colours and numbers that the
            run's data draws; or a file with one line of JSON for each prompt.
        images_per_prompt: published: 4.
        num_prompts: how many of them, evenly over the tasks, for a quick look; all if not given.
        seed: of the first image of each prompt; published: 0.
        negative: prompt that guidance leads away from.
        sampler: another than the model's own; its settings without a class change those of the model's own.
        ema: true for the first average of the weights, `raw`, or the decay or name of an average.
        size: height and width in pixels; the training size if not given.
        precision: of matrix products while images are made; they are judged in float32.
        batch_size: images between two looks at the clock and the disk.
        devices: processes on this machine, one for each GPU, or on the CPU.
        num_nodes: machines.
        detector: what finds objects; `ShapesDetector` where all objects are shapes, else `CocoDetector`, if not given.
        generate_only: make the images, score nothing.
        score_only: score a folder of images in GenEval's layout, whoever made them.

    Returns:
        The folder.

    Raises:
        ValueError: naming what is wrong with the arguments, the source or the folder.
    """
    if generate_only and score_only:
        raise ValueError("generate_only and score_only leave nothing to do: give one of them")
    if min(images_per_prompt, 1 if num_prompts is None else num_prompts) < 1 or seed < 0:
        raise ValueError(
            f"images_per_prompt is {images_per_prompt}, num_prompts {num_prompts}, seed {seed}: give at least 1, and a "
            "seed from 0"
        )
    fabric = launch(devices, precision, num_nodes)
    if score_only:
        score(Path(source), detector, fabric)
        return Path(source)
    with agree(fabric):
        chosen = find_prompts(prompts, shapes_data(source))
        chosen = spread(chosen, num_prompts or len(chosen))
        judge = None if generate_only else find_detector(detector, chosen)  # before hours of sampling, if it is missing
    folder = make_prompted(
        source,
        [prompt.text for prompt in chosen],
        range(seed, seed + images_per_prompt),
        sample_path,
        {"prompts": len(chosen), "prompts_sha256": prompts_sha256(chosen)},
        Manner(negative, sampler, ema, size, precision, batch_size),
        fabric,
        lambda home, name: home / "geneval" / name if to is None else Path(to),
    )
    with agree(fabric):
        if fabric.global_rank == 0:
            lay_out(folder, chosen)
    if judge is not None:
        score(folder, judge, fabric)
    return folder


def shapes_data(source: str | Path) -> ShapesData | None:
    """The data that a run was trained on, where it is `ShapesData`.

    Raises:
        ValueError: if there is no readable checkpoint or export.
    """
    data = Run(source).config.get("data") or {}
    is_shapes = str(data.get("class_path")).endswith(".ShapesData")
    return ShapesData(**data.get("init_args", {})) if is_shapes else None


def find_detector(detector: Detector | None, prompts: Sequence[Prompt]) -> Detector:
    """The detector that was given, or the one that prompts belong to; errors as in `Detector.check`."""
    if detector is None:
        shapes, names = ShapesDetector(), {wanted.name for prompt in prompts for wanted in prompt.include}
        detector = shapes if names <= set(shapes.names) else CocoDetector()
    detector.check(prompts)
    return detector


def score(folder: Path, detector: Detector | None, fabric: Fabric, batch_size: int = 16) -> dict[str, Any]:
    """Judge all images of a folder, each process its share, and write what came out; goes on where it was stopped.

    Returns:
        `scores` and `protocol`, as in `geneval.json`.
    """
    with agree(fabric):
        samples = find_samples(folder)
        detector = find_detector(detector, [sample.prompt for sample in samples]).to(fabric.device)
        journal = Journal(folder, detector, fabric.global_rank)
        known = journal.known(samples)
    with agree(fabric):  # by now all have read the same journal, and begin to add to it
        judged = {record["filename"] for record in known}
        share = [sample for sample in samples if sample.path not in judged][fabric.global_rank :: fabric.world_size]
        records: list[dict[str, Any]] = []
        with Progress(disable=fabric.global_rank != 0) as progress:
            task = progress.add_task("verdicts", total=len(share))
            for batch in judge_samples(detector, folder, share, fabric.device, batch_size):
                journal.add(batch)
                records += batch
                progress.advance(task, len(batch))
    if fabric.world_size > 1:
        parts: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(parts, records)
        records = [record for part in parts for record in part]
    found = {record["filename"]: record for record in [*known, *records]}
    records = [found[sample.path] for sample in samples]
    prompts = [sample.prompt for sample in samples]
    report = {
        "scores": scores(prompts, [record["correct"] for record in records]),
        "protocol": protocol(folder, prompts, detector),
    }
    with agree(fabric):
        if fabric.global_rank == 0:
            _write(folder / RESULTS, "".join(json.dumps(record) + "\n" for record in records))
            _write(folder / SCORES, json.dumps(report, indent=2) + "\n")
            journal.clear()
    return report


def protocol(folder: Path, images: Sequence[Prompt], detector: Detector) -> dict[str, Any]:
    """All that the scores of a folder depend on.

    Args:
        folder: of the images.
        images: the prompt of each.
        detector: that judged them.
    """
    prompts = list(dict.fromkeys(images))
    counts = Counter(images).values()
    settings = folder / SETTINGS
    return {
        "prompts": len(prompts),
        "prompts_sha256": prompts_sha256(prompts),
        "published_prompts": prompts == geneval_prompts(),
        "images": len(images),
        "images_per_prompt": [min(counts), max(counts)],
        **detector.protocol,
        "made_with": json.loads(settings.read_text()) if settings.is_file() else None,
        "note": SHAPES_NOTE if isinstance(detector, ShapesDetector) else NOTE,
    }


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text)
        unfinished.replace(path)
    except OSError as error:
        raise ValueError(f"could not write {path} ({error}): free some space") from error


def table(report: dict[str, Any]) -> Table:
    """Scores, a row each."""
    made = Table(title="GenEval")
    made.add_column("task")
    made.add_column("score", justify="right")
    values = report["scores"]
    for name, value in values.items():
        if name.startswith("task/"):
            made.add_row(name.removeprefix("task/"), f"{value:.4f}")
    made.add_section()
    for name, key in (("overall", "overall"), ("images right", "images"), ("prompts with a right image", "prompts")):
        made.add_row(name, f"{values[key]:.4f}", style="bold" if key == "overall" else None)
    return made


def protocol_line(about: dict[str, Any]) -> str:
    """The protocol in a sentence, to be quoted with the score."""
    least, most = about["images_per_prompt"]
    which = "published" if about["published_prompts"] else "not the published ones"
    many = f"{least}" if least == most else f"{least} to {most}"
    parts = [f"{about['prompts']} prompts ({which}, sha256 {about['prompts_sha256'][:16]}) × {many} images"]
    made = about["made_with"]
    if made is None:
        parts.append("made elsewhere")
    else:
        sampler = made.get("sampler", {})
        settings = ", ".join(f"{key} {value}" for key, value in sampler.items() if key != "class")
        parts.append(f"seeds {', '.join(map(str, made.get('seeds', [])))}")
        parts.append(f"average {made.get('average')} of step {made.get('step')}")
        parts.append(f"{sampler.get('class')} ({settings})")
    parts += [
        f"{key} {about[key]}{'@' + about[f'{key}_revision'][:23] if f'{key}_revision' in about else ''}"
        for key in ("detector", "clip")
        if key in about
    ]
    return "; ".join(parts)


# --- command line


def main(args: Sequence[str] | None = None) -> Path:
    """Score as the options say; see `python -m pixelgen.geneval --help`."""
    parser = ArgumentParser(
        prog="python -m pixelgen.geneval", description=NOTE, allow_abbrev=False, exit_on_error=False
    )
    parser.add_function_arguments(geneval, as_positional=True, skip={*FLAGS})
    add_flags(parser, FLAGS)
    with stop_on_bad_input():
        options = parse(parser, sys.argv[1:] if args is None else args)
        folder = geneval(**options)
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    path, console = folder / SCORES, Console(quiet=rank != 0)
    scored = path.is_file() and not options["generate_only"]
    if scored:
        report = json.loads(path.read_text())
        console.print(table(report))
        console.print(protocol_line(report["protocol"]), report["protocol"]["note"], sep="\n", soft_wrap=True)
    console.print(f"{folder}: images" + (f", {SCORES}, {RESULTS}" if scored else ""), soft_wrap=True)
    return folder


if __name__ == "__main__":
    main()
