"""The trainer's switches do what they say, and what only makes things faster need not be there."""

import pytest
import torch
from torch import nn

from pixelgen.cli.training import CLI
from pixelgen.fit import main
from pixelgen.models import denoiser
from shard_files import picture, write_shards

NETWORK = {"patch_size": 8, "hidden_size": 16, "depth": 1, "num_heads": 2, "in_context_len": 0}
TINY = ["--model.denoiser", "JiT"]
TINY += [word for name, value in NETWORK.items() for word in (f"--model.denoiser.{name}", str(value))]
TINY += ["--trainer.accelerator", "cpu", "--callbacks.preview", "null"]
TINY += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
SHAPES = ["--data", "ShapesData", "--data.batch_size", "4", "--data.length", "32", "--data.val_length", "8"]


def fit(folder, *arguments, data=SHAPES):
    return main([*data, *TINY, "--run", str(folder / "run"), "--trainer.max_steps", "4", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ["fast_dev_run", "2"],
        ["overfit_batches", "2"],
        ["profiler", "simple"],
        ["profiler", "advanced"],
        ["limit_train_batches", "2"],
        ["limit_train_batches", "0.5"],
        ["limit_val_batches", "0.5"],
        ["num_sanity_val_steps", "1"],
        ["detect_anomaly", "true"],
        ["deterministic", "true"],
        ["logger", "false"],
        ["val_check_interval", "2"],
        ["gradient_clip_val", "0.5"],
        ["accumulate_grad_batches", "2"],
        ["barebones", "true"],
        ["enable_checkpointing", "false"],
    ],
)
def test_each_switch_trains_to_the_last_step(tmp_path, arguments):
    name, value = arguments
    trainer = fit(tmp_path, f"--trainer.{name}", value).trainer
    assert trainer.global_step == (2 if name == "fast_dev_run" else 4)
    saved = (tmp_path / "run/checkpoints/last.ckpt").exists()
    assert saved == (name not in ("fast_dev_run", "barebones", "enable_checkpointing"))


def folder_data(folder):
    for number in range(12):
        path = folder / f"images/{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(20 * number))
    return ["--data", "ImageFolderData", "--data.root", str(folder / "images"), "--data.flip", "true"]


def shard_data(folder):
    return [
        "--data",
        "ShardData",
        "--data.shards",
        write_shards(folder / "s", [12]),
        "--data.length",
        "12",
        "--data.num_classes",
        "7",
    ]


@pytest.mark.parametrize("data", [folder_data, shard_data])
def test_overfitting_sees_the_same_batches_in_each_epoch(tmp_path, data):
    """Two batches, three times: 6 steps see 8 images."""
    options = ["--data.image_size", "16", "--data.batch_size", "4", "--trainer.overfit_batches", "2"]
    cli = CLI([*data(tmp_path), *options, *TINY, "--run", str(tmp_path / "run"), "--trainer.max_steps", "6"])
    seen, step = [], cli.model.training_step

    def note(batch, batch_idx):
        seen.append(batch["image"].clone())
        return step(batch, batch_idx)

    cli.model.training_step = note
    cli.fit()
    assert len(seen) == 6
    assert not torch.equal(seen[0], seen[1])
    for i in range(2, 6):
        assert torch.equal(seen[i], seen[i - 2])


def test_the_run_folder_is_not_called_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    cli = CLI([*SHAPES, *TINY, "--run=~/x"])
    assert cli.folder == tmp_path / "home/x"


def test_without_a_working_compiler_blocks_run_as_they_are_with_one_warning(monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(denoiser, "lookup_backend", lambda name: no_compiler)
    monkeypatch.setattr(denoiser.inductor_or_eager, "failed", False)
    layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
    x = torch.randn(2, 4)
    expected = layers[1](layers[0](x))
    for layer in layers:
        layer.compile(backend=denoiser.inductor_or_eager)
    with pytest.warns(UserWarning, match=r"runs uncompiled.*\(No working C\+\+ compiler found\): install") as said:
        found = layers[1](layers[0](x))
    assert torch.equal(found, expected)
    assert len([warning for warning in said if "uncompiled" in str(warning.message)]) == 1
