"""Parts of one's own beside the named slots, from YAML and from Python, without touching the package."""

import csv

import pytest
import torch
import yaml
from lightning import Trainer

import pixelgen
from my_parts import L1, Attributes, Colouring, Few, Midpoint, Picture, Projected, ShapeAndColor, Uniform
from pixelgen import PixelGen
from pixelgen.fit import main
from pixelgen.losses import NoiseGate, Objective
from pixelgen.sample import main as sample

OWN = """
model:
  denoiser: my_parts.Attributes
  conditioner: my_parts.ShapeAndColor
  objective:
    gate: {class_path: my_parts.Band, init_args: {high: 0.9}}
    more: [{class_path: my_parts.L1, init_args: {weight: 0.25}}, {class_path: my_parts.Projected}]
  time: {class_path: my_parts.Uniform, init_args: {low: 0.1}}
  sampler: {class_path: my_parts.Midpoint, init_args: {num_steps: 2, guidance: 2.0}}
data: {class_path: my_parts.Few}
callbacks: {preview: {num_images: 4}, ema: {decays: [0.5]}}
trainer: {max_steps: 2, limit_val_batches: 0, accelerator: cpu, precision: 32-true, log_every_n_steps: 1}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.yaml").write_text(OWN)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    changed = ["--model.time.low", "0.2", "--model.sampler.at", "0.25"]
    main(["--config", str(folder / "own.yaml"), "--run", str(folder / "run"), *quiet, *changed])
    return folder / "run"


def test_a_config_names_them_and_flags_reach_into_them(run):
    arguments = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    assert arguments["time"] == {"class_path": "my_parts.Uniform", "init_args": {"low": 0.2}}
    assert arguments["sampler"]["init_args"]["at"] == 0.25
    assert [term["class_path"] for term in arguments["objective"]["init_args"]["more"]] == [
        "my_parts.L1",
        "my_parts.Projected",
    ]
    gate = arguments["objective"]["init_args"]["gate"]
    assert gate == {"class_path": "my_parts.Band", "init_args": {"low": 0.2, "high": 0.9}}
    with next((run / "logs" / "version_0").glob("metrics.csv")).open() as file:
        columns = next(csv.reader(file))
    assert {"loss/flow_matching", "loss/l1", "loss/projected"} <= set(columns)
    assert [path.name for path in (run / "previews").glob("step_*")] == ["step_0000002.png"]


def test_what_they_trained_loads_and_samples(run):
    with pytest.raises(
        ValueError, match=r"config.yaml names my_parts.\w+, which .*: add --trust \(trust=True in Python"
    ):
        pixelgen.load(run, device="cpu")
    model = pixelgen.load(run, device="cpu", trust=True)
    assert isinstance(model.conditioner, ShapeAndColor)
    images = model.sample(torch.tensor([[0, 1], [3, 9]]), seeds=5)
    assert images.shape == (2, 3, 32, 32)
    assert not torch.equal(images[0], model.sample(torch.tensor([[1, 1]]), seeds=5)[0])
    assert isinstance(model.sampler, Midpoint)


def test_every_command_asks_for_trust_in_them(run, tmp_path, capsys):
    sampling, resuming = [str(run), "--classes", "01", "--to", str(tmp_path / "set")], ["--ckpt_path", str(run)]
    for command, arguments in ((sample, sampling), (main, resuming)):
        with pytest.raises(SystemExit):
            command(arguments)
        assert "names my_parts." in (said := capsys.readouterr().err)
        assert "add --trust (trust=True in Python) if you trust whoever made it" in said
    assert sample([*sampling, "--trust", "--sampler.at", "0.4"]) == tmp_path / "set"
    assert main([*resuming, "--trust"]).trainer.global_step == 2
    assert "trust" not in yaml.safe_load((run / "config.yaml").read_text())


def fit(model, folder, steps):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=steps, accelerator="cpu", default_root_dir=folder, **options).fit(model, Few())


def test_from_python(tmp_path):
    projected = Projected()
    objective = Objective(more=[L1(), projected], gate=NoiseGate(0.5))
    model = PixelGen(
        Attributes(), objective, Midpoint(num_steps=2), Uniform(), conditioner=ShapeAndColor(), condition_dropout=0.5
    )
    trainer = Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(model, Few())
    assert 0 < projected.seen < 12  # the gate selects for it too
    assert float(projected.scale) != 1  # its parameter trains
    assert "objective.more.0.scale" in model.state_dict()
    assert model.sample(torch.tensor([[0, 1]]), sampler=Midpoint(num_steps=2, guidance=3.0)).isfinite().all()


def test_images_as_conditions(tmp_path):
    model = PixelGen(Colouring(), conditioner=Picture(), sampler=Midpoint(num_steps=2))
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(model, Few())
    assert model.sample(torch.rand(3, 1, 32, 32), seeds=[1, 2, 3]).shape == (3, 3, 32, 32)
    with pytest.raises(ValueError, match="Picture gives no examples for previews and scores: implement"):
        model.conditioner.examples(4, None)


def test_two_losses_of_one_name_are_numbered():
    assert list(Objective(more=[L1(), L1()]).terms) == ["flow_matching", "l1", "l1_2"]
