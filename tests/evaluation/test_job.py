import numpy as np
import pytest
import torch

from pixelgen.data.order import evenly_spaced
from pixelgen.evaluation import Metrics
from pixelgen.evaluation.extract import EvaluationJob
from tiny_run import Means, TinyImages
from toy_features import Toy, draw, reference_of


def test_statistics_of_a_data_set():
    images = TinyImages(16)
    statistics = EvaluationJob(batch_size=5).measure(images, Means())
    features = Means()(images.images).double()
    torch.testing.assert_close(statistics.mu, features.mean(0))
    torch.testing.assert_close(statistics.sigma, features.T.cov())
    assert (statistics.n, statistics.extractor, statistics.features) == (16, "means", None)


def test_a_part_is_spaced_evenly():
    images, job = TinyImages(16), EvaluationJob()
    statistics = job.measure(images, Means(), samples=4)
    torch.testing.assert_close(statistics.mu, Means()(images.images[[0, 6, 8, 15]]).double().mean(0))
    assert statistics.n == 4
    assert job.measure(images, Means(), samples=100).n == 16


def test_what_metrics_need_is_kept():
    class Items(torch.utils.data.Dataset):
        images = draw(40, seed=1, brightness=30)

        def __len__(self):
            return 40

        def __getitem__(self, index):
            return {"image": self.images[index]}

    metrics = Metrics(kid_subsets=5, kid_subset_size=10)
    real = reference_of(Items.images, metrics)
    measured = EvaluationJob(metrics, batch_size=9).measure(Items(), Toy())
    assert torch.equal(measured.features, real.features)
    torch.testing.assert_close(measured.sigma_s, real.sigma_s, rtol=1e-9, atol=1e-12)
    assert measured.logits is None  # nobody asks for the Inception Score of a reference
    chosen = evenly_spaced(40, 10)
    assert torch.equal(EvaluationJob(metrics).measure(Items(), Toy(), 10).features, real.features[chosen])


@pytest.mark.parametrize(
    ("length", "count"), [(50_000, 5_000), (50_000, 1_000), (1_281_167, 50_000), (400, 40), (7, 7)]
)
def test_a_part_has_its_share_of_every_class_sorted_or_in_turn(length, count):
    chosen, classes = np.array(evenly_spaced(length, count)), min(100, count)
    stretches = chosen * count / length  # one in each
    assert ((np.arange(count) - count / length <= stretches) & (stretches < np.arange(1, count + 1))).all()
    for labels in (chosen * classes // length, chosen % classes):
        shares = np.bincount(labels, minlength=classes)
        assert (count // classes - shares.min(), shares.max() - count / classes) < (0.3 * count / classes + 2,) * 2
