"""The npz holds the pixels of the files in their order, and is never half there."""

import numpy as np
import pytest
from PIL import Image

from pixelgen.samples.npz import write_npz


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 4, 6, 3), dtype=np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(150)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths, pixels


def test_pixels_come_back_in_order(images, tmp_path):
    paths, pixels = images
    write_npz(paths, tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as file:
        assert file.files == ["arr_0"]
        assert file["arr_0"].dtype == np.uint8
        assert np.array_equal(file["arr_0"], pixels)


def test_another_size_is_named_and_nothing_is_left(images, tmp_path):
    paths, _ = images
    Image.new("RGB", (5, 4)).save(paths[100])
    with pytest.raises(ValueError, match=r"100.png is \(4, 5, 3\), but 0.png is \(4, 6, 3\): remove one"):
        write_npz(paths, tmp_path / "samples.npz")
    assert not [*tmp_path.glob("*npz*"), *tmp_path.glob(".*")]


def test_a_folder_that_cannot_be_written_is_told(images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"could not write .*samples.npz \(.*\): free some space"):
        write_npz(images[0], tmp_path / "file" / "samples.npz")
