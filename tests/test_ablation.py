"""The ablation in miniature: rows, tables, and that finished runs are not trained again."""

import csv
import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("ablation", ROOT / "benchmarks" / "ablation.py")
ablation = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ablation)

QUICK = [
    *("--model.denoiser.hidden_size", "24", "--model.denoiser.depth", "3", "--data.batch_size", "2"),
    *("--model.sampler.num_steps", "2", "--trainer.max_steps", "1", "--callbacks.preview", "null"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--callbacks.summary", "null"),
    *("--trainer.enable_model_summary", "false"),
]


def test_a_row_is_trained_and_scored_once(tmp_path, monkeypatch):
    arguments = dict(folder=tmp_path, rows=["+ LPIPS"], seeds=[3], samples=40, reference_samples=8, options=QUICK)
    ablation.ablation(**arguments)
    scores = json.loads((tmp_path / "lpips-3" / "scores.json").read_text())
    assert scores["steps"] == 1
    assert scores["frechet"] > 100
    # one step makes grey images: all in one place, amid the few real ones, and of no class
    assert (scores["precision"], scores["recall"], scores["accuracy"]) == (1.0, 0.0, 0.0)
    (record,) = csv.DictReader((tmp_path / "ablation.csv").open())
    assert (record["row"], record["seed"], float(record["frechet"])) == ("+ LPIPS", "3", scores["frechet"])
    monkeypatch.setattr(ablation, "fit", None)  # a second call would need it
    ablation.ablation(**arguments)


def test_rows_are_those_of_the_paper():
    """As for ImageNet: each overlay takes away from the last row what the table adds after it."""
    from pixelgen.cli.training import CLI

    found = {}
    for row, overlay in ablation.ROWS.items():
        configs = ["--config", str(ROOT / "configs" / "ablation_small.yaml")]
        configs += ["--config", str(ROOT / "configs" / "ablation" / f"{overlay}.yaml")] if overlay else []
        objective = CLI([*configs, *QUICK]).model.objective
        slots = [name for name in ("repa", "lpips", "pdino") if getattr(objective, name) is not None]
        found[row] = slots, objective.gate.threshold
    assert found == {
        "JiT + REPA": (["repa"], 0.3),  # nothing is gated
        "+ LPIPS": (["repa", "lpips"], 0.0),
        "+ P-DINO": (["repa", "lpips", "pdino"], 0.0),
        "+ gate": (["repa", "lpips", "pdino"], 0.3),
    }


def test_the_table_has_means_and_spreads(tmp_path):
    for seed, distance in enumerate((100.0, 110.0, 120.0)):
        run = tmp_path / f"gate-{seed}"
        run.mkdir()
        (run / "scores.json").write_text(json.dumps({"frechet": distance, "precision": 0.5, "recall": 0.25}))
    *_, last = ablation._write_tables(tmp_path).splitlines()
    assert last == "| + gate | 3 | 110 ± 10 | 0.500 ± 0.000 | 0.250 ± 0.000 | – | – | – |"
    assert (tmp_path / "ablation.md").read_text().count("\n") == 6
