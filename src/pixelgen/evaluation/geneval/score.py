"""GenEval's scores: from verdicts, of a folder of images, and in words."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Fabric
from lightning.pytorch.utilities import rank_zero_warn
from rich.progress import track
from rich.table import Table

from pixelgen.distributed.processes import agree, gather
from pixelgen.evaluation.geneval.detectors import Detector, ShapesDetector, find_detector
from pixelgen.evaluation.geneval.folder import VerdictLog, find_images, judge_images, missing_images
from pixelgen.evaluation.geneval.prompts import Prompt, geneval_prompts, prompts_sha256
from pixelgen.files import write_text
from pixelgen.samples.settings import SETTINGS

SCORES, RESULTS = "geneval.json", "results.jsonl"
NOTE = (
    "Where fine-tuning data contains GenEval-style prompts, as BLIP3o-60k does, the score is in-distribution: "
    "say so beside it."
)
SHAPES_NOTE = "A model of drawn shapes was trained on captions of these prompts' grammar: the score is in-distribution."


def geneval_scores(prompts: Sequence[Prompt], correct: Sequence[bool]) -> dict[str, float]:
    """Shares in [0, 1] of a set of images, from the prompt of each and whether it is right.

    `overall` is the mean of the tasks; `task/<name>` the share of right images of each task; `images` that of all;
    `prompts` the share of the prompts with at least one right image.
    """
    tasks: dict[str, list[bool]] = {}
    by_prompt: dict[Prompt, bool] = {}
    for prompt, right in zip(prompts, correct, strict=True):
        tasks.setdefault(prompt.task, []).append(right)
        by_prompt[prompt] = by_prompt.get(prompt, False) or right
    shares = {f"task/{task}": sum(rights) / len(rights) for task, rights in tasks.items()}
    overall = sum(shares.values()) / len(shares)
    images, some = sum(correct) / len(correct), sum(by_prompt.values()) / len(by_prompt)
    return {"overall": overall, **shares, "images": images, "prompts": some}


def score_folder(folder: Path, detector: Detector | None, fabric: Fabric, batch_size: int = 16) -> dict[str, Any]:
    """Judge all images of a folder, each process its share, and write the result; resumes where it was stopped.

    Returns `scores` and `protocol`, as in `geneval.json`. A ValueError tells that the folder or an image cannot be read
    or written, or that the detector does not know its objects.
    """
    with agree(fabric):
        images, settings = find_images(folder), _settings(folder)
        missing = missing_images(folder, images, settings)
        _tell_of_missing(folder, missing, settings is not None)
        prompts = [image.prompt for image in images]
        detector = find_detector(detector, prompts).to(fabric.device)
        log = VerdictLog(folder, detector, fabric.global_rank)
        verdicts = {record["filename"]: record for record in log.known(images)}
    with agree(fabric):  # by now all processes have read the same log, and begin to add to it
        unjudged = [image for image in images if image.path not in verdicts]
        share = unjudged[fabric.global_rank :: fabric.world_size]
        records = judge_images(detector, folder, share, fabric.device, batch_size)
        judged = []
        for record in track(records, "verdicts", len(share), disable=fabric.global_rank != 0):
            log.add(record)
            judged.append(record)
    verdicts |= {record["filename"]: record for record in gather(judged)}
    correct = [verdicts[image.path]["correct"] for image in images]
    protocol = geneval_protocol(folder, prompts, detector) | ({"missing": missing} if missing else {})
    report = {"scores": geneval_scores(prompts, correct), "protocol": protocol}
    with agree(fabric):
        if fabric.global_rank == 0:
            write_text(folder / RESULTS, "".join(json.dumps(verdicts[image.path]) + "\n" for image in images))
            write_text(folder / SCORES, json.dumps(report, indent=2) + "\n")
            log.clear()
    return report


def _settings(folder: Path) -> dict[str, Any] | None:
    """What a set that was generated here was made with."""
    path = folder / SETTINGS
    try:
        settings: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, or make the images again") from error
    return settings


def _tell_of_missing(folder: Path, missing: Sequence[str], ours: bool) -> None:
    """Refuse a set of ours that lacks images, and warn of another one, whose protocol will name them."""
    said = f"{folder} lacks {len(missing)} images ({missing[0]} first)" if missing else ""
    if missing and ours:
        raise ValueError(f"{said}: finish it by the command that makes it")
    if missing:
        rank_zero_warn(f"{said}: its score is of the others alone, as its protocol says")


def geneval_protocol(folder: Path, images: Sequence[Prompt], detector: Detector) -> dict[str, Any]:
    """All that the scores of a folder depend on, from the prompt of each of its images and what judged them."""
    prompts, counts = list(dict.fromkeys(images)), Counter(images).values()
    return {
        "prompts": len(prompts),
        "prompts_sha256": prompts_sha256(prompts),
        "published_prompts": prompts == geneval_prompts(),
        "images": len(images),
        "images_per_prompt": [min(counts), max(counts)],
        **detector.protocol,
        "made_with": _settings(folder),
        "note": SHAPES_NOTE if isinstance(detector, ShapesDetector) else NOTE,
    }


def score_table(scores: dict[str, float]) -> Table:
    """Scores, a row each."""
    table = Table("task", title="GenEval")
    table.add_column("score", justify="right")
    for name, value in scores.items():
        if name.startswith("task/"):
            table.add_row(name.removeprefix("task/"), f"{value:.4f}")
    table.add_section()
    for label, name in (("overall", "overall"), ("images right", "images"), ("prompts with a right image", "prompts")):
        table.add_row(label, f"{scores[name]:.4f}", style="bold" if name == "overall" else None)
    return table


def protocol_sentence(protocol: dict[str, Any]) -> str:
    """The protocol in a sentence, to be quoted with the score."""
    least, most = protocol["images_per_prompt"]
    which = "published" if protocol["published_prompts"] else "not the published ones"
    number = f"{least}" if least == most else f"{least} to {most}"
    parts = [f"{protocol['prompts']} prompts ({which}, sha256 {protocol['prompts_sha256'][:16]}) × {number} images"]
    if (made := protocol["made_with"]) is None:
        parts.append("made elsewhere")
    else:
        sampler, seeds = made.get("sampler", {}), ", ".join(map(str, made.get("seeds", [])))
        settings = ", ".join(f"{key} {value}" for key, value in sampler.items() if key != "class")
        parts += [f"seeds {seeds}", f"average {made.get('average')} of step {made.get('step')}"]
        parts.append(f"{sampler.get('class')} ({settings})")
    for name in ("detector", "clip"):
        if name in protocol:
            revision = protocol.get(f"{name}_revision")
            parts.append(f"{name} {protocol[name]}" + ("" if revision is None else f"@{revision[:23]}"))
    parts += [f"incomplete, {len(protocol['missing'])} missing"] if "missing" in protocol else []
    return "; ".join(parts)
