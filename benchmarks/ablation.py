"""The paper's ablation in miniature: every row with several seeds, at equal steps, scored alike; one table.

python benchmarks/ablation.py --help
"""

import csv
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import CLI
from rich.console import Console

import pixelgen
from pixelgen.data import ImageData
from pixelgen.encoders import BackboneFeatures
from pixelgen.evaluation import PrecisionRecall, ShapesAccuracy, Statistics
from pixelgen.evaluation.extract import choose
from pixelgen.fit import main as fit
from pixelgen.flow import to_uint8

CONFIGS = Path(__file__).parent.parent / "configs"
# as the paper's table adds them up; what each overlay changes is relative to the last row
ROWS = {"JiT + REPA": "jit_repa", "+ LPIPS": "lpips", "+ P-DINO": "ungated", "+ gate": None}
COLUMNS = ("frechet", "precision", "recall", "color_accuracy", "shape_accuracy", "accuracy")


def ablation(
    folder: Path = Path("runs/ablation"),
    rows: list[str] = list(ROWS),  # noqa: B006  (never written to; jsonargparse shows it)
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    base: Path = CONFIGS / "ablation_small.yaml",
    samples: int = 600,
    reference_samples: int = 2000,
    options: list[str] = [],  # noqa: B006
) -> None:
    """Train what is not trained yet, and write `ablation.md` and `ablation.csv`; a killed run goes on where it was.

    Args:
        folder: of the runs and tables.
        rows: which rows.
        seeds: of network, data and order; those of the sampling noise are the same everywhere.
        base: config of the last row.
        samples: images to generate for the scores, equally many of each class.
        reference_samples: real images to compare with, evenly spaced over the training set.
        options: more options of `python -m pixelgen.fit`, for every run.
    """
    for seed in seeds:
        for row in rows:
            run = folder / f"{ROWS[row] or 'gate'}-{seed}"
            if not (run / "scores.json").exists():
                overlay = ["--config", str(CONFIGS / f"ablation/{ROWS[row]}.yaml")] if ROWS[row] else []
                arguments = ["--config", str(base), *overlay, "--seed_everything", str(seed), *options]
                _train_and_score(run, arguments, samples, reference_samples)
            Console().print(_write_tables(folder))


def _train_and_score(run: Path, arguments: list[str], samples: int, reference_samples: int) -> None:
    """Train in `run`, or go on there, and write its scores."""
    start = time.perf_counter()
    cli = fit([*arguments, "--run", str(run), "--ckpt_path", "last"])
    minutes = (time.perf_counter() - start) / 60
    found = score(run, cli.datamodule, samples, reference_samples)
    about = {"steps": cli.trainer.global_step, "minutes": round(minutes, 2)}
    (run / "scores.json").write_text(json.dumps(found | about) + "\n")


def score(run: Path, data: ImageData, samples: int, reference_samples: int) -> dict[str, float]:
    """Fréchet distance, precision and recall in pooled EfficientNet features; the judge's accuracies for shapes."""
    extractor = BackboneFeatures()
    model = pixelgen.load(run)
    extractor.to(model.device)
    classes = model.denoiser.num_classes
    labels = None if classes is None else torch.arange(samples) % classes
    images = to_uint8(model.sample(labels, seeds=range(samples)))
    generated = Statistics.of(torch.cat([extractor(part) for part in images.split(64)]))
    dataset: Any = data.train_dataset()
    chosen = choose(dataset, reference_samples)
    batches = (torch.stack([dataset[j]["image"] for j in chosen[i : i + 64]]) for i in range(0, len(chosen), 64))
    real = Statistics.of(torch.cat([extractor(batch.to(model.device)) for batch in batches]))
    found = {"frechet": generated.distance(real), **PrecisionRecall().compute(generated, real)}
    judge = ShapesAccuracy()
    if getattr(data, "class_names", None) == judge.class_names and labels is not None:
        judge.update(images.cpu(), labels)
        found |= {name: float(value) for name, value in judge.compute().items()}
    return found


def _write_tables(folder: Path) -> str:
    """All finished runs as CSV, and as a table with mean and standard deviation over the seeds; returns the latter."""
    lines = ["| row | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    records = []
    for row, overlay in ROWS.items():
        runs = sorted(folder.glob(f"{overlay or 'gate'}-*/scores.json"))
        found = [json.loads(path.read_text()) for path in runs]
        seeds = [path.parent.name.rpartition("-")[2] for path in runs]
        records += [{"row": row, "seed": seed, **entry} for seed, entry in zip(seeds, found, strict=True)]
        cells = [_mean_and_deviation([entry[name] for entry in found if name in entry]) for name in COLUMNS]
        lines.append(f"| {row} | {len(runs)} | " + " | ".join(cells) + " |")
    with (folder / "ablation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("row", "seed", *COLUMNS, "steps", "minutes"))
        writer.writeheader()
        writer.writerows(records)
    table = "\n".join(lines)
    (folder / "ablation.md").write_text(table + "\n")
    return table


def _mean_and_deviation(values: list[float]) -> str:
    if not values:
        return "–"
    digits = 0 if max(values) > 10 else 3
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


if __name__ == "__main__":
    CLI(ablation, as_positional=False)
