"""Handwritten digits as class folders."""

import numpy as np
import pytest
from PIL import Image

from digits import main


def test_digits_lie_in_their_class_folders(tmp_path, capsys):
    assert main([str(tmp_path / "digits"), "--size", "16"]) == 1797
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == [str(digit) for digit in range(10)]
    zero = Image.open(tmp_path / "digits" / "0" / "0000.png")
    assert (zero.size, zero.mode) == ((16, 16), "RGB")
    assert np.array(zero).max() > 200
    assert "1797 images in" in capsys.readouterr().out


def test_help_is_printed_and_nothing_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "side of the images in pixels" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
