"""A set of images on disk, scored against references, with all that the scores depend on: its protocol."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table

from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.extract import Comparison, EvaluationJob, choose
from pixelgen.evaluation.images import open_images
from pixelgen.evaluation.reference import Reference
from pixelgen.evaluation.scores import warn_of_few
from pixelgen.files import write_text
from pixelgen.samples.generate import file_name
from pixelgen.samples.settings import SETTINGS

SCORES = "evaluation.json"
UNKNOWN = "unknown"
FROM_SETTINGS = ("average", "step", "weights", "sampler", "size", "seed", "precision", "negative")
DIGITS = {"kid": 6, "kid_std": 6, "precision": 4, "recall": 4}


class Scores(dict[str, float]):
    """Each score by its name, and all that they depend on as `protocol`, for JSON."""

    def __init__(self, scores: dict[str, float], protocol: dict[str, Any]) -> None:
        super().__init__(scores)
        self.protocol = protocol


def score_set(
    source: Path,
    number: int | None,
    pairs: Sequence[tuple[FeatureExtractor, Reference]],
    job: EvaluationJob,
    classes: int | None = None,
) -> Scores:
    """Score so many images, or all, of a folder or npz in one pass; all processes must call this.

    Of a set of `pixelgen.sample` they are the first ones, as if there were no others; else they are evenly spaced. The
    protocol says so, and whether they lack some of the `classes` that come in turn, where their number is known.
    Extractors are on their device, each with its reference. A ValueError names what is wrong with the images.
    """
    images = open_images(source, upright=job.upright)
    count = len(images) if number is None else number
    first = (source / SETTINGS).is_file()
    if not 2 <= count <= len(images):
        raise ValueError(f"{source} holds {len(images)} images: give a num_images from 2 to that, not {count}")
    _refuse_unfinished(source, count)
    comparisons, features = [], []
    for extractor, reference in pairs:
        warn_of_few(count, extractor)
        job.metrics.choose(extractor, count)
        real = reference.statistics(extractor, job, images.size)
        warn_of_few(real.n, extractor, "reference images")
        comparisons.append(Comparison(extractor, real, count, job.metrics))
        about = {
            "extractor": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "reference": reference.path.name,
            "reference_images": real.n,
            "reference_of": real.total,
            "reference_features": None if real.features is None else len(real.features),
            "reference_fingerprint": real.fingerprint,
        }
        features.append({**about, **comparisons[-1].protocol})
    skipped = job.extract(images, comparisons, range(count) if first else choose(images, count))
    scores = {name: value for comparison in comparisons for name, value in comparison.scores().items()}
    counts = {"source": str(source), "images": count - skipped, "skipped": skipped, "pixels": list(images.size)}
    if count < len(images):
        counts |= {"of": len(images), "selection": "the first ones" if first else "evenly spaced"}
    if classes is not None and count < classes:
        shown = counts["classes_shown"] = f"the first {count} of {classes}"
        rank_zero_warn(f"{count} images show only {shown} classes: give a num_images of {classes} or more")
    return Scores(scores, {**counts, **settings_of_set(source), "features": features, "versions": _versions()})


def _refuse_unfinished(source: Path, count: int) -> None:
    """Refuse a set of `pixelgen.sample` that lacks one of its first images: its classes would not come in turn."""
    if not (source / SETTINGS).is_file():
        return
    names = set(os.listdir(source))
    lacking = next((name for name in map(file_name, range(count)) if name not in names), None)
    if lacking is not None and any(re.fullmatch(r"\d{6}\.png", name) for name in names):
        raise ValueError(
            f"{source} lacks {lacking} of {count} images: finish it by the command that makes it, or give the number "
            "of images before that one as num_images"
        )


def settings_of_set(folder: Path) -> dict[str, Any]:
    """What `settings.json` says of how the images of a folder were made; "unknown" where there is none."""
    path = folder / SETTINGS
    try:
        settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, or make the images again") from error
    about = {"classes": settings.get("conditions", UNKNOWN), **dict.fromkeys(("average", "step", "sampler"), UNKNOWN)}
    return about | {name: settings[name] for name in FROM_SETTINGS if name in settings}


def _versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {}
    for package in ("pixelgen-lightning", "torch", "torch-fidelity"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = UNKNOWN
    return found


# --- for people, and in `evaluation.json`


def print_scores(scores: Scores) -> None:
    """Print scores as a table, and their protocol below."""
    made = Table(title=str(scores.protocol["source"]), title_justify="left")
    made.add_column("metric")
    made.add_column("value", justify="right")
    for name, value in scores.items():
        made.add_row(name, f"{value:.{DIGITS.get(name.partition('/')[0], 3)}f}")
    console = Console()
    console.print(made)
    console.print("\n".join(_in_words(scores.protocol)), soft_wrap=True, highlight=False, markup=False)


def _in_words(protocol: Mapping[str, Any]) -> list[str]:
    """Images, sampler, average; then a line for each extractor with its reference."""
    skipped = f" ({protocol['skipped']} unreadable ones left out)" if protocol["skipped"] else ""
    part = f" of {protocol['of']}, {protocol['selection']}," if "of" in protocol else ""
    classes = protocol["classes"]
    if isinstance(classes, list | dict):
        classes = f"conditions {json.dumps(classes)}"
    classes = {None: "no classes", UNKNOWN: "class sampling unknown"}.get(classes, classes)
    shown = f" ({protocol['classes_shown']} classes)" if "classes_shown" in protocol else ""
    seed = f", from seed {protocol['seed']}" if "seed" in protocol else ""
    precision = f", {protocol['precision']}" if "precision" in protocol else ""
    height, width = protocol["pixels"]
    sampler = protocol["sampler"]
    if isinstance(sampler, Mapping):
        sampler = f"{sampler['class']}({_pairs({name: sampler[name] for name in sampler if name != 'class'})})"
    said = [
        f"{protocol['images']} images{part} of {width}x{height} px{skipped}, {classes}{seed}{shown}",
        f"sampler {sampler}; EMA {protocol['average']}, step {protocol['step']}{precision}",
    ]
    for features in protocol["features"]:
        sha256, number = (features["weights_sha256"] or UNKNOWN)[:16], features["reference_images"] or UNKNOWN
        number = f"{number} of {features['reference_of']}" if features["reference_of"] else number
        said += [
            f"{features['extractor']}, weights {sha256}; reference {features['reference']} of {number} images"
            f"{_kept(features)}, hash {features['reference_fingerprint']}",
            *([f"  {_pairs(features['settings'])}"] if features["settings"] else []),
            *(f"  no {name}: {reason}" for name, reason in features["left_out"].items()),
        ]
    return said


def _kept(features: Mapping[str, Any]) -> str:
    """Of how many real images features are compared, if they are."""
    number = features["reference_features"] if "max_features" in features["settings"] else None
    return "" if number in (None, features["reference_images"]) else f", features of {number}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def scores_file(source: Path) -> Path:
    """Where the scores of images go: `evaluation.json` in their folder, `<name>.evaluation.json` beside an npz."""
    return source / SCORES if source.is_dir() else source.with_name(f"{source.stem}.{SCORES}")


def add_scores(path: Path, scores: Scores) -> None:
    """Put scores into a JSON file of all scores of a set; those of the same protocol are replaced."""
    try:
        records: list[Any] = json.loads(path.read_text()) if path.is_file() else []
        same = json.loads(json.dumps(scores.protocol))
        records = [record for record in records if record["protocol"] != same]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no scores ({error}): remove it, or give another file as --to") from error
    except OSError as error:
        raise ValueError(f"could not read {path} ({error}): give another file as --to") from error
    records.append({"scores": scores, "protocol": scores.protocol})
    write_text(path, json.dumps(records, indent=2) + "\n", "give another file as --to")
