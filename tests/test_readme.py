"""The README's commands and Python are run, with small numbers."""

import re
import shlex
from pathlib import Path

import pytest

import pixelgen
from digits import write_digits
from pixelgen.cli.training import CLI
from pixelgen.export import main as export

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(line):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert line.split("#")[0].split()[1] in targets


@pytest.mark.parametrize("line", [line for line in COMMANDS if "pixelgen.fit" in line])
def test_fit_commands_build(line, demo_run, tmp_path, monkeypatch):
    """Everything is parsed, built and checked, up to the first step; runs and images are those of the tests."""
    monkeypatch.chdir(ROOT)
    write_digits(tmp_path / "images")
    places = {"my/images": str(tmp_path / "images"), "runs/demo": str(demo_run), "runs/slow": str(tmp_path / "slow")}
    arguments = [places.get(argument, argument) for argument in shlex.split(line, comments=True)[3:]]
    if "--run" not in arguments and "--ckpt_path" not in arguments:
        arguments += ["--run", str(tmp_path / "run")]
    if "digits" in line:
        arguments += ["--data.root", str(tmp_path / "images")]
    if "--init_from" in arguments:  # the run of the tests is of another size than the demo's
        arguments += ["--model.denoiser.patch_size", "16", "--model.denoiser.hidden_size", "16"]
        arguments += ["--model.denoiser.depth", "2", "--model.denoiser.num_heads", "2"]
        arguments += ["--model.denoiser.bottleneck_dim", "128"]
    assert CLI([*arguments, "--trainer.accelerator", "cpu"]).model is not None


def test_sampling_lines_run(demo_run, monkeypatch):
    folder = demo_run.parent.parent
    monkeypatch.chdir(folder)
    sampling = next(text for language, text in BLOCKS if language == "python" and "load(" in text)
    exec(compile(sampling, "README.md", "exec"), {})
    assert (folder / "samples.png").exists()


def test_subclassing_lines_run():
    subclass = next(text for language, text in BLOCKS if language == "python" and "class " in text)
    exec(compile(subclass, "README.md", "exec"), {"__name__": "readme"})


def test_every_config_is_in_a_table():
    tables = README + "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert str(path.relative_to(ROOT)) in tables


def test_tree_names_every_room():
    for path in (ROOT / "src" / "pixelgen").iterdir():
        if path.is_dir() and not path.name.startswith("__"):
            assert f"{path.name}/" in README


def test_the_export_command_runs(demo_run, tmp_path):
    (line,) = (line for line in COMMANDS if "pixelgen.export" in line)
    places = {"runs/demo": str(demo_run), "exports/demo": str(tmp_path / "export")}
    export([places.get(argument, argument) for argument in shlex.split(line, comments=True)[3:]])
    assert pixelgen.load(tmp_path / "export").sample([0], seeds=1).shape == (1, 3, 32, 32)
