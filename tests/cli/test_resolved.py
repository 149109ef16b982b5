"""Configs say everything, flags reach every number of every recipe, and null is off."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from pixelgen.cli.arguments import with_nulls
from pixelgen.cli.training import CLI
from pixelgen.fit import main
from pixelgen.module import PixelGen

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "ablation_small")


def resolved(*arguments):
    """The `model` section that a command line resolves to; nothing is built."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(PixelGen, "model")
    for key in ("data", "callbacks", "trainer"):
        parser.add_argument(f"--{key}", type=dict)
    text = parser.dump(parser.parse_args(with_nulls(["--model", "pixelgen.PixelGen", *arguments])))
    return yaml.safe_load(text)["model"]["init_args"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_number_of_a_recipe_is_in_its_config_and_in_reach_of_a_flag(path):
    before = resolved("--config", str(path))
    assert {"lr", "betas", "weight_decay"} <= before["optimizer"]["init_args"].keys()
    assert {"mean", "std", "shift", "stratified"} == before["time"]["init_args"].keys()
    assert {"num_steps", "guidance", "guidance_max", "t_eps"} <= before["sampler"]["init_args"].keys()
    assert before["objective"]["init_args"]["gate"]["init_args"] == {"threshold": 0.3, "normalise": "passing"}
    assert before["objective"]["init_args"]["flow_matching"]["init_args"] == {"t_eps": 0.05}
    flags = {"optimizer.lr": "0.25", "time.stratified": "true", "objective.gate.threshold": "0.1", "sampler.shift": "3"}
    given = [word for name, value in flags.items() for word in (f"--model.{name}", value)]
    after = resolved("--config", str(path), *given, "--model.objective.flow_matching.t_eps", "0.01")
    assert after["optimizer"]["init_args"] == before["optimizer"]["init_args"] | {"lr": 0.25}
    assert after["time"]["init_args"]["stratified"] is True
    assert after["objective"]["init_args"]["gate"]["init_args"]["threshold"] == 0.1
    assert after["objective"]["init_args"]["flow_matching"]["init_args"]["t_eps"] == 0.01
    assert after["sampler"] == before["sampler"] | {"init_args": before["sampler"]["init_args"] | {"shift": 3.0}}


def test_a_null_gate_on_the_command_line_lets_every_sample_pass():
    cli = CLI(["--config", str(ROOT / "configs" / "demo.yaml"), "--model.objective.gate", "null"])
    assert cli.model.objective.gate is None
    text = cli.parser.dump(cli.config, skip_none=False)
    assert yaml.safe_load(text)["model"]["init_args"]["objective"]["init_args"]["gate"] is None


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model.time", "null"], "PixelGen.time is null: give an instance of TimeSampler"),
        (["--model.sampler", "null"], "PixelGen.sampler is null"),
        (["--model.objective.flow_matching", "null"], "Objective.flow_matching is null"),
        (["--model.objective.lpips.weight", "0"], "set objective.lpips to null to switch it off"),
        (["--model.objective.gate.threshold", "30"], "gate.threshold is 30.0: give a number of at least 0 and below 1"),
    ],
)
def test_what_cannot_be_off_and_weights_of_zero_are_refused_in_one_sentence(flags, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--config", str(ROOT / "configs" / "demo.yaml"), *flags])
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2
    assert sentence in error
