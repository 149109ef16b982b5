import sys

import numpy as np
import pytest
from PIL import Image

from openmoji import main, write_openmoji


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openmoji")
    assert main([str(folder), "--size", "24", "--groups", '["Food & Drink"]']) == {"Food & Drink": 135}
    return folder


def test_pictures_have_their_names(folder):
    pictures, names = ({path.stem for path in folder.glob(f"*.{kind}")} for kind in ("png", "txt"))
    assert pictures == names
    assert len(pictures) == 135
    assert (folder / "1F34E.txt").read_text() == "red apple\n"
    apple = np.asarray(Image.open(folder / "1F34E.png").convert("RGB")).astype(int)
    assert apple.shape == (24, 24, 3)
    assert apple[0, 0].tolist() == [255, 255, 255]
    red, green, blue = apple[8:20, 8:16].mean((0, 1))
    assert red > green + 80
    assert red > blue + 80


def test_licence_and_attribution_lie_beside_them(folder):
    assert "CC BY-SA 4.0" in (folder / "ATTRIBUTION").read_text()
    assert (folder / "LICENSE").read_text().startswith("Attribution-ShareAlike 4.0 International")


def test_pictures_of_another_choice_are_not_mixed(folder):
    with pytest.raises(ValueError, match="holds pictures already: give another folder"):
        write_openmoji(folder, groups=["Activities"])
    assert len(list(folder.glob("*.png"))) == 135


def test_what_is_wrong_is_said(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="there is no group 'Cars': choose among Activities, Animals & Nature, "):
        write_openmoji(tmp_path, groups=["Cars"])
    with pytest.raises(ValueError, match="size is 0: give a whole number of at least 8"):
        write_openmoji(tmp_path, size=0)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2
    assert "error: the package resvg-py is missing: pip install" in capsys.readouterr().err
