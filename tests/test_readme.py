"""The README's commands and Python are run, with small numbers."""

import re
import shlex
from pathlib import Path

import pytest

from pixelgen.cli import CLI
from pixelgen.data.digits import write_digits

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(line):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert line.split("#")[0].split()[1] in targets


@pytest.mark.parametrize("line", [line for line in COMMANDS if "pixelgen.fit" in line and "--ckpt_path" not in line])
def test_fit_commands_build(line, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(line, comments=True)[3:]
    write_digits(tmp_path / "images")
    if "imagenet" not in line:
        arguments += ["--run", str(tmp_path / "run"), "--trainer.accelerator", "cpu"]
    arguments = [str(tmp_path / "images") if a in {"my/images", "data/digits"} else a for a in arguments]
    if "digits" in line:
        arguments += ["--data.root", str(tmp_path / "images")]
    arguments = [a for a in arguments if "init_from" not in a and a != "runs/demo"]
    assert CLI(arguments).model is not None


def test_sampling_lines_run(tmp_path, monkeypatch):
    from pixelgen.fit import main

    monkeypatch.chdir(tmp_path)
    denoiser = "--model.denoiser"
    main(
        [
            *("--data", "ShapesData", "--data.batch_size", "2", denoiser, "JiT", f"{denoiser}.patch_size", "16"),
            *(f"{denoiser}.hidden_size", "16", f"{denoiser}.depth", "2", f"{denoiser}.num_heads", "2"),
            *("--model.sampler", "Euler", "--model.sampler.num_steps", "2", "--trainer.max_steps", "1"),
            *("--trainer.limit_val_batches", "0", "--callbacks.preview", "null", "--run", "runs/demo"),
            *("--trainer.accelerator", "cpu"),
        ]
    )
    sampling = next(text for language, text in BLOCKS if language == "python" and "load(" in text)
    exec(compile(sampling, "README.md", "exec"), {})
    assert (tmp_path / "samples.png").exists()


def test_subclassing_lines_run():
    subclass = next(text for language, text in BLOCKS if language == "python" and "class " in text)
    exec(compile(subclass, "README.md", "exec"), {"__name__": "readme"})


def test_every_config_is_in_the_table():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert str(path.relative_to(ROOT)) in README


def test_tree_names_every_room():
    for path in (ROOT / "src" / "pixelgen").iterdir():
        if path.is_dir() and not path.name.startswith("__"):
            assert f"{path.name}/" in README
