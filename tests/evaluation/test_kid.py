import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from pixelgen.evaluation import kernel_distance


def features(count, seed, shift=0.0):
    return shift + torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    # (xy + 1)³: within both sets 1; across: k(0,0) = 1, k(0,2) = 1, k(1,0) = 1, k(1,2) = 27, mean 7.5
    assert kernel_distance(x, y, subsets=1, subset_size=2)[0] == pytest.approx(1 + 1 - 2 * 7.5)


def test_agrees_with_torch_fidelity_on_the_same_subsets():
    generated, real = features(60, 1), features(80, 2, shift=0.5)
    theirs = kid_features_to_metric(
        generated, real, kid_subsets=7, kid_subset_size=20, rng_seed=2020, verbose=False, kid_kernel="poly",
        kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1,
    )  # fmt: skip
    assert kernel_distance(generated, real, 7, 20) == pytest.approx(list(theirs.values()), rel=1e-5)


def test_agrees_with_torchmetrics_on_all_features():
    generated, real = features(40, 1), features(40, 2, shift=0.5)
    ours, deviation = kernel_distance(generated, real, subsets=2, subset_size=40)
    assert ours == pytest.approx(float(poly_mmd(real.double(), generated.double())), rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_unbiased():
    """Sets of one distribution are 0 apart on average, which a biased estimate would not give."""
    mean, deviation = kernel_distance(features(2000, 1), features(2000, 2), subsets=40, subset_size=50)
    assert abs(mean) < 0.5 * deviation


def test_too_few():
    with pytest.raises(ValueError, match="subsets of 1000 needs as many images, got 5 generated and 9 real"):
        kernel_distance(features(5, 0), features(9, 0))
