import json
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pixelgen.evaluation.images import ImageArray, arrays, open_images, read_arrays
from toy_features import draw, write_folder


def pixels(images):
    return images.permute(0, 2, 3, 1).numpy()


def test_files_as_they_are_in_order(tmp_path):
    images = draw(3)
    found = open_images(write_folder(images, tmp_path / "set"))
    assert (len(found), found.size) == (3, (8, 8))
    assert all(torch.equal(found[i]["image"], images[i]) for i in range(3))


def test_the_overview_of_a_set_is_no_image_of_it(tmp_path):
    folder = write_folder(draw(3), tmp_path / "set")
    (folder / "000000.png").rename(folder / "grid.png")
    assert len(open_images(folder)) == 3
    (folder / "settings.json").write_text("{}")
    assert len(open_images(folder)) == 2


def test_crops_are_those_of_the_training_data(tmp_path):
    from pixelgen.data.folder import ImageFolderDataset

    folder = write_folder(draw(2, size=20), tmp_path / "set")
    Image.new("L", (30, 21), 7).save(folder / "wide.png")
    found, expected = open_images(folder, 8), ImageFolderDataset(folder, None, 8)
    assert all(torch.equal(found[i]["image"], expected[i]["image"]) for i in range(3))
    np.savez(tmp_path / "set.npz", arr_0=pixels(draw(2, size=20)))
    assert torch.equal(open_images(tmp_path / "set.npz", 8)[1]["image"], expected[1]["image"])


def test_problems_are_told_by_the_item(tmp_path):
    folder = write_folder(draw(3), tmp_path / "set")
    (folder / "000000.png").write_bytes(b"no image")
    Image.new("RGB", (9, 8)).save(folder / "000002.png")
    found = open_images(folder)
    assert found.size == (8, 8)
    assert found[0]["corrupt"]
    assert "000000.png cannot be read as an image" in found[0]["problem"]
    assert "000002.png is 9x8 px but the first image is 8x8 px" in found[2]["problem"]
    assert not found[2]["corrupt"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_where_they_lie(tmp_path, save):
    images = draw(4)
    save(tmp_path / "set.npz", mu=np.zeros(3), arr_0=pixels(images))
    found = ImageArray(tmp_path / "set.npz")
    assert isinstance(found._array, np.memmap) == (save is np.savez)
    assert all(torch.equal(found[i]["image"], images[i]) for i in range(4))
    assert arrays(tmp_path / "set.npz") == {"mu", "arr_0"}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), r"uint8 \(2, 3, 8, 8\): want uint8 \(N, H, W, 3\), three channels, last"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"\(2, 8, 8, 1\): want"),
        (np.zeros((2, 8, 8, 3), np.float32), "is float32"),
        (np.zeros((0, 8, 8, 3), np.uint8), "holds no images"),
    ],
)
def test_wrong_arrays(tmp_path, array, message):
    np.savez(tmp_path / "set.npz", arr_0=array)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "set.npz")


def test_wrong_places(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text(json.dumps({}))
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    np.savez(tmp_path / "cut.npz", arr_0=np.zeros((9, 8, 8, 3), np.uint8))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:500])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    for name, message in (
        ("empty", "there are no images in"),
        ("nowhere", "does not exist"),
        ("text.npz", "cannot be read as an npz"),
        ("cut.npz", "cannot be read as an npz"),
        ("other.npz", "holds no arr_0"),
        ("bad", "none of 1 files can be read as an image"),
    ):
        with pytest.raises(ValueError, match=message):
            open_images(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read as an npz"):
        arrays(tmp_path / "text.npz")


def bomb(path, name, shape, dtype="|u1", kind=zipfile.ZIP_DEFLATED, written=None):
    """An npz with an array of zeros; of so many bytes, whatever its header says."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    size = math.prod(shape) * np.dtype(dtype).itemsize if written is None else written
    with (
        zipfile.ZipFile(path, "w", kind, compresslevel=1) as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(size))
    return path


def test_arrays_that_are_bombs_are_refused_unread(tmp_path, monkeypatch):
    path = bomb(tmp_path / "a.npz", "arr_0", (4000, 32, 32, 3))
    assert len(ImageArray(path)) == 4000  # large ones alone are
    monkeypatch.setattr("pixelgen.evaluation.images.UNCHECKED", 1 << 20)
    with pytest.raises(ValueError, match=r"cannot be read as an npz \(arr_0\.npy packs 12288\d+ bytes into \d+, as no"):
        ImageArray(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_headers_that_claim_more_than_there_is_are_refused(tmp_path, kind):
    path = bomb(tmp_path / "a.npz", "arr_0", (10**9, 64, 64, 3), kind=kind, written=100)
    with pytest.raises(ValueError, match="cannot be read as an npz"):
        ImageArray(path)
    moments = bomb(tmp_path / "b.npz", "mu", (10**12,), "<f8", kind, written=100)
    with pytest.raises(ValueError, match=r"mu.npy of \d+ bytes cannot be float64"):
        read_arrays(moments, ["mu"])


def test_photos_are_turned_unless_that_is_switched_off(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(2):
        Image.new("RGB", (6, 4), "red").save(tmp_path / f"{i}.jpg", exif=exif)
    assert [open_images(tmp_path, upright=upright).size for upright in (True, False)] == [(6, 4), (4, 6)]
    assert open_images(tmp_path)[1]["image"].shape == (3, 6, 4)
