import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from pixelgen.evaluation import precision_recall


def features(count, seed, shift=0.0):
    return shift + torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    # k = 1; radii of the real ones 1, 1, 2, of the generated ones 2, 1, 1
    real = torch.tensor([[0.0], [1.0], [3.0]])
    generated = torch.tensor([[4.5], [6.5], [7.5]])
    # only 4.5 lies within 2 of 3; only 3 lies within 2 of 4.5
    assert precision_recall(generated, real, neighbours=1) == pytest.approx((1 / 3, 1 / 3))


def test_equal_and_distant_sets():
    here = features(20, 0)
    assert precision_recall(here, here) == (1, 1)
    assert precision_recall(here, here + 100) == (0, 0)
    few_modes = here[:1] + 0.01 * features(20, 1)
    precision, recall = precision_recall(few_modes, here)
    assert precision == 1
    assert recall < 0.3


@pytest.mark.parametrize("neighbours", [1, 3])
def test_agrees_with_torch_fidelity(neighbours):
    generated, real = features(50, 1), features(70, 2, shift=0.8)
    theirs = prc_features_to_metric(
        generated, real, prc_neighborhood=neighbours, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
    )
    ours = precision_recall(generated, real, neighbours, block=16)
    assert ours == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    assert 0.1 < ours[0] < 0.95


def test_too_few():
    with pytest.raises(ValueError, match="more than 3 images, got 3 generated and 9 real"):
        precision_recall(features(3, 0), features(9, 0))
