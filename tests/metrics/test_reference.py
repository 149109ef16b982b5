import pytest
import torch
from PIL import Image

from pixelgen.metrics.reference import FolderImages, reference_statistics
from tiny_run import Means, TinyImages


def test_statistics_of_a_data_set():
    images = TinyImages(16)
    statistics = reference_statistics(images, Means(), batch_size=5)
    features = Means()(images.images).double()
    torch.testing.assert_close(statistics.mu, features.mean(0))
    torch.testing.assert_close(statistics.sigma, features.T.cov())
    assert (statistics.n, statistics.extractor) == (16, "means")


def test_a_part_is_spread_evenly():
    images = TinyImages(16)
    statistics = reference_statistics(images, Means(), samples=4)
    torch.testing.assert_close(statistics.mu, Means()(images.images[[0, 4, 8, 12]]).double().mean(0))
    assert statistics.n == 4
    assert reference_statistics(images, Means(), samples=100).n == 16


def test_folder(tmp_path):
    for i, size in enumerate([(20, 10), (8, 8), (9, 40)]):
        (tmp_path / f"class{i}").mkdir()
        Image.new("RGB", size, (10 * i, 0, 0)).save(tmp_path / f"class{i}/image.png")
    (tmp_path / "notes.txt").write_text("not an image")
    images = FolderImages(tmp_path, 8)
    assert len(images) == 3
    for i in range(3):
        assert images[i]["image"].shape == (3, 8, 8)
        assert images[i]["image"].dtype == torch.uint8
        assert images[i]["image"][0].unique().tolist() == [10 * i]


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="no images under"):
        FolderImages(tmp_path, 8)
