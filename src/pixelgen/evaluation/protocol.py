"""What scores depend on, to stand beside them: in `evaluation.json`, and in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pixelgen.files import write_text
from pixelgen.samples.settings import SETTINGS

SCORES = "evaluation.json"
UNKNOWN = "unknown"
FROM_SETTINGS = ("average", "step", "weights", "sampler", "size", "seed", "precision", "negative")
DIGITS = {"kid": 6, "kid_std": 6, "precision": 4, "recall": 4}


def of_the_set(folder: Path) -> dict[str, Any]:
    """What `settings.json` says of how the images of a folder were made; "unknown" where there is none."""
    path = folder / SETTINGS
    try:
        settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, or make the images again") from error
    about = {name: settings[name] for name in FROM_SETTINGS if name in settings}
    return {
        "classes": settings.get("conditions", UNKNOWN),
        **dict.fromkeys(("average", "step", "sampler"), UNKNOWN),
    } | about


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {}
    for package in ("pixelgen-lightning", "torch", "torch-fidelity"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = UNKNOWN
    return found


def in_words(protocol: Mapping[str, Any]) -> list[str]:
    """A protocol for people: images, sampler, average; then a line for each extractor with its reference."""
    skipped = f" ({protocol['skipped']} unreadable ones left out)" if protocol["skipped"] else ""
    classes = protocol["classes"]
    if isinstance(classes, list | dict):
        classes = f"conditions {json.dumps(classes)}"
    classes = {None: "no classes", UNKNOWN: "class sampling unknown"}.get(classes, classes)
    seed = f", from seed {protocol['seed']}" if "seed" in protocol else ""
    precision = f", {protocol['precision']}" if "precision" in protocol else ""
    height, width = protocol["pixels"]
    sampler = f"sampler {_call(protocol['sampler'])}; EMA {protocol['average']}, step {protocol['step']}{precision}"
    said = [f"{protocol['images']} images of {width}x{height} px{skipped}, {classes}{seed}", sampler]
    for features in protocol["features"]:
        sha256 = (features["weights_sha256"] or UNKNOWN)[:16]
        said += [
            f"{features['extractor']}, weights {sha256}; reference {features['reference']} of "
            f"{features['reference_images'] or UNKNOWN} images, hash {features['reference_fingerprint']}",
            *([f"  {_pairs(features['settings'])}"] if features["settings"] else []),
            *(f"  no {name}: {reason}" for name, reason in features["left_out"].items()),
        ]
    return said


def print_scores(scores: Mapping[str, float], protocol: Mapping[str, Any]) -> None:
    """Print scores as a table, and their protocol below."""
    made = Table(title=str(protocol["source"]), title_justify="left")
    made.add_column("metric")
    made.add_column("value", justify="right")
    for name, value in scores.items():
        made.add_row(name, f"{value:.{DIGITS.get(name.partition('/')[0], 3)}f}")
    console = Console()
    console.print(made)
    console.print("\n".join(in_words(protocol)), soft_wrap=True, highlight=False, markup=False)


def scores_file(source: str | Path) -> Path:
    """Where the scores of images go: `evaluation.json` in their folder, `<name>.evaluation.json` beside an npz."""
    path = Path(source)
    return path / SCORES if path.is_dir() else path.with_name(f"{path.stem}.{SCORES}")


def add(path: Path, scores: Mapping[str, float], protocol: Mapping[str, Any]) -> None:
    """Put scores into a JSON file of all scores of a set; those of the same protocol are replaced.

    Raises:
        ValueError: if the file is damaged or cannot be written.
    """
    try:
        records: list[Any] = json.loads(path.read_text()) if path.is_file() else []
        same = json.loads(json.dumps(protocol))
        records = [record for record in records if record["protocol"] != same]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no scores ({error}): remove it, or give another file as --to") from error
    except OSError as error:
        raise ValueError(f"could not read {path} ({error}): give another file as --to") from error
    records.append({"scores": scores, "protocol": protocol})
    write_text(path, json.dumps(records, indent=2) + "\n", "give another file as --to")


def _call(sampler: Any) -> str:
    """A sampler as it is called."""
    if not isinstance(sampler, Mapping):
        return str(sampler)
    return f"{sampler['class']}({_pairs({name: value for name, value in sampler.items() if name != 'class'})})"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
