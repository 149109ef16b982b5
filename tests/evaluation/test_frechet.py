import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from pixelgen.evaluation.frechet import FeatureStatistics, frechet_distance


def covariance(dim, rank, seed):
    root = torch.randn(dim, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T / rank


def test_one_dimension():
    # (m1 - m2)^2 + (s1 - s2)^2 = (1 - 3)^2 + (2 - 5)^2
    assert frechet_distance(
        torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([3.0]), torch.tensor([[25.0]])
    ) == pytest.approx(13)


def test_diagonal_covariances():
    mu1, mu2 = torch.zeros(3), torch.tensor([1.0, 2.0, 2.0])
    sigma1, sigma2 = torch.diag(torch.tensor([1.0, 4.0, 9.0])), torch.diag(torch.tensor([4.0, 4.0, 0.0]))
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(9 + 1 + 0 + 9)


def test_agrees_with_a_general_matrix_square_root():
    mu = torch.zeros(20)
    sigma1, sigma2 = covariance(20, 80, seed=1), covariance(20, 80, seed=2)
    expected = np.trace((sigma1 + sigma2).numpy()) - 2 * np.trace(sqrtm((sigma1 @ sigma2).numpy())).real
    assert frechet_distance(mu, sigma1, mu, sigma2) == pytest.approx(expected, rel=1e-10)


def test_singular_covariances():
    # disjoint supports: the cross term vanishes; equal ones: the distance does
    blocks = torch.zeros(2, 40, 40, dtype=torch.float64)
    blocks[0, :20, :20], blocks[1, 20:, 20:] = covariance(20, 5, seed=1), covariance(20, 5, seed=2)
    mu = torch.zeros(40, dtype=torch.float64)
    apart = frechet_distance(mu, blocks[0], mu, blocks[1])
    assert apart == pytest.approx(float(blocks[0].trace() + blocks[1].trace()), abs=1e-6)
    assert frechet_distance(mu, blocks[0], mu, blocks[0]) == pytest.approx(0, abs=1e-6)


def test_symmetric():
    sigma1, sigma2 = covariance(16, 4, seed=1), covariance(16, 64, seed=2)
    mu1, mu2 = torch.zeros(16), torch.arange(16.0)
    there, back = frechet_distance(mu1, sigma1, mu2, sigma2), frechet_distance(mu2, sigma2, mu1, sigma1)
    assert there == pytest.approx(back, rel=1e-9)


def test_different_dimensions():
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        frechet_distance(torch.zeros(3), torch.eye(3), torch.zeros(4), torch.eye(4))


def test_statistics_equal_numpy_at_any_batch_size():
    features = 100 + torch.randn(50, 6, generator=torch.Generator().manual_seed(0))  # a mean far from 0
    metric = FeatureStatistics(6)
    for batch in features.split(7):
        metric.update(batch)
    mu, sigma, n = metric.compute()
    assert n == 50
    assert mu.dtype == sigma.dtype == torch.float64
    np.testing.assert_allclose(mu, features.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(sigma, np.cov(features.double().numpy().T), rtol=1e-7, atol=1e-9)


def test_statistics_add_up_over_processes():
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    whole, parts = FeatureStatistics(4), [FeatureStatistics(4), FeatureStatistics(4)]
    whole.update(features)
    parts[0].update(features[::2])
    parts[1].update(features[1::2])
    parts[0]._reduce_states({name: getattr(parts[1], name) for name in ("n", "total", "outer")})
    for one, two in zip(whole.compute(), (parts[0]).compute(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_float64_survives_a_half_precision_module():
    assert FeatureStatistics(4).half().outer.dtype == torch.float64


def test_statistics_need_the_right_shape_and_two_samples():
    metric = FeatureStatistics(4)
    with pytest.raises(ValueError, match=r"\(B, 4\), got \(2, 5\)"):
        metric.update(torch.zeros(2, 5))
    metric.update(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        metric.compute()


def test_agrees_with_torch_fidelity_and_torchmetrics():
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    mu1, mu2 = torch.zeros(16), torch.linspace(0, 1, 16)
    sigma1, sigma2 = covariance(16, 80, seed=1), covariance(16, 80, seed=2)
    ours = frechet_distance(mu1, sigma1, mu2, sigma2)
    first, second = ({"mu": m.double().numpy(), "sigma": s.numpy()} for m, s in ((mu1, sigma1), (mu2, sigma2)))
    theirs = fid_statistics_to_metric(first, second, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours == pytest.approx(float(_compute_fid(mu1.double(), sigma1, mu2.double(), sigma2)), rel=1e-9)


@pytest.mark.slow
def test_inception_size_takes_seconds():
    sigma = covariance(2048, 4096, seed=0)
    mu = torch.zeros(2048, dtype=torch.float64)
    assert math.isclose(frechet_distance(mu, sigma, mu, 4 * sigma), float(sigma.trace()), rel_tol=1e-9)
