import json

import pytest
import torch
from PIL import Image

from painter import Painted, Painter
from pixelgen.dpg import main
from pixelgen.runs.run import Run

TEXTS = {"COCOval2014_7": "a red circle on a table\n", "12": "two stars", "midjourney0": "a ring"}


class Letters(Painter):
    """Images whose grey level is the length of the prompt, and 60 times the seed more."""

    def sample(self, condition, seeds, sampler=None, *, size=None, **options):
        self.asked += zip(condition, seeds, strict=True)
        levels = torch.tensor([len(text) + 60 * seed for text, seed in zip(condition, seeds, strict=True)])
        height, width = size or (32, 32)
        return levels[:, None, None, None].expand(-1, 3, height, width) / 127.5 - 1


@pytest.fixture
def letters(tmp_path, monkeypatch):
    model = Letters()
    monkeypatch.setattr(Run, "open", lambda source: Painted(tmp_path / "run", model))
    monkeypatch.setattr(Run, "__init__", lambda self, source: None)
    (tmp_path / "prompts").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / f"prompts/{name}.txt").write_text(text)
    return model


def test_grid_of_each_prompt(letters, tmp_path, capsys):
    folder = main(["runs/letters", str(tmp_path / "prompts"), "--size", "16", "32"])
    assert folder.parent.parent == tmp_path / "run/dpg"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.png" for name in TEXTS)
    for name, text in TEXTS.items():
        with Image.open(folder / f"{name}.png") as grid:
            assert grid.size == (64, 32)
            corners = [grid.getpixel(place)[0] for place in ((0, 0), (63, 0), (0, 31), (63, 31))]
        assert corners == pytest.approx([len(text.strip()) + 60 * seed for seed in range(4)], abs=1)
    settings = json.loads((folder.parent / "settings.json").read_text())
    assert (settings["prompts"], settings["seeds"], settings["size"]) == (3, [0, 1, 2, 3], [16, 32])
    assert "3 grids, to be scored by DPG-Bench's own script, which has 1065 prompts" in capsys.readouterr().out


def test_other_prompts_are_another_set(letters, tmp_path):
    first = main(["runs/letters", str(tmp_path / "prompts")])
    asked = len(letters.asked)
    assert main(["runs/letters", str(tmp_path / "prompts")]) == first
    assert len(letters.asked) == asked  # everything was there
    (tmp_path / "prompts/12.txt").write_text("three stars")
    assert main(["runs/letters", str(tmp_path / "prompts")]) != first


def test_prompts_that_are_none(letters, tmp_path, capsys):
    for prepare, message in (
        (lambda: (tmp_path / "prompts/12.txt").write_bytes(b"\xff\xfe\xff"), "cannot be read as text"),
        (lambda: (tmp_path / "prompts/12.txt").write_text(" \n"), "12.txt is empty"),
        (lambda: [path.unlink() for path in (tmp_path / "prompts").iterdir()], "holds no prompts"),
    ):
        prepare()
        with pytest.raises(SystemExit):
            main(["runs/letters", str(tmp_path / "prompts")])
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
