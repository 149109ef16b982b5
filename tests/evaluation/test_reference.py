import torch

from pixelgen.evaluation.reference import reference_statistics
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
