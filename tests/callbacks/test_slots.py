import csv

import pytest
import torch
import yaml

from my_callbacks import CountBatches, Steps
from pixelgen.callbacks import EMA, Callbacks, Checkpoint, SkipNonFinite, Summary
from pixelgen.cli.training import CLI
from tiny_run import TinyData, TinyModule, tiny_trainer

RUN = [
    *("--model", "PixelGen", "--model.denoiser", "JiT", "--model.denoiser.patch_size", "16"),
    *("--model.denoiser.hidden_size", "16", "--model.denoiser.depth", "1", "--model.denoiser.num_heads", "2"),
    *("--model.denoiser.bottleneck_dim", "null", "--model.denoiser.in_context_len", "0"),
    *("--data", "ShapesData", "--data.batch_size", "4", "--callbacks.preview", "null", "--callbacks.summary", "null"),
    *("--trainer.max_steps", "4", "--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "2"),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
]


def test_order():
    first, skip, mine, saving, last = EMA(), SkipNonFinite(), CountBatches(), Checkpoint(), Summary()
    slots = Callbacks(summary=last, checkpoint=saving, more=[mine], guard=skip, ema=first)
    assert slots.active == [first, skip, mine, saving, last]
    assert Callbacks().active == []


def test_callbacks_of_ones_own_in_python(tmp_path):
    steps = Steps(every_n_steps=4)
    slots = Callbacks(more=[CountBatches(), steps], checkpoint=Checkpoint())
    tiny_trainer(tmp_path, slots.active, max_steps=6).fit(TinyModule(), TinyData())
    assert (tmp_path / "batches.txt").read_text() == "6"
    assert steps.steps == [4, 6]
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["callbacks"]["CountBatches"] == {"batches": 6}


def test_callbacks_of_ones_own_in_yaml_and_by_flags(tmp_path):
    more = [{"class_path": "my_callbacks.CountBatches", "init_args": {"file": "mine.txt"}}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"callbacks": {"more": more}}))
    run = ["--config", str(tmp_path / "mine.yaml"), *RUN, "--run", str(tmp_path / "run")]
    cli = CLI([*run, "--callbacks.more+=my_callbacks.Steps"])
    cli.fit()
    assert (tmp_path / "run/mine.txt").read_text() == "4"
    assert [callback.steps for callback in cli.trainer.callbacks if isinstance(callback, Steps)] == [[2, 4]]
    with (tmp_path / "run/logs/version_0/metrics.csv").open() as file:  # the rate is logged by default
        assert [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]] == pytest.approx([1e-4, 1e-4])


def test_they_are_checked_before_the_run_has_a_folder(tmp_path):
    mine = ["--callbacks.more+=my_callbacks.Steps", "--callbacks.more.every_n_steps=13"]
    with pytest.raises(ValueError, match="13 steps bring bad luck"):
        CLI([*RUN, "--run", str(tmp_path / "run"), *mine])
    assert not (tmp_path / "run").exists()
