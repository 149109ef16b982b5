import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.metric_isc import isc_features_to_metric
from torchmetrics.image.inception import InceptionScore as Theirs

from pixelgen.evaluation import InceptionScore


def logits(count, classes=7, seed=0):
    return 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def score(values, splits=10, order=None, batch=7):
    metric = InceptionScore(len(values), values.shape[1], splits)
    order = range(len(values)) if order is None else order
    for start in range(0, len(values), batch):
        indices = list(order[start : start + batch])
        metric.update(values[indices], indices)
    return [float(value) for value in metric.compute()]


def test_certain_and_even_classes_score_their_number():
    assert score(100 * torch.eye(5).repeat(4, 1), splits=1) == pytest.approx([5, 0])
    assert score(100 * torch.eye(5)[[2] * 20], splits=2) == pytest.approx([1, 0])


@pytest.mark.parametrize(("count", "splits"), [(60, 10), (53, 4), (12, 1)])
def test_agrees_with_torch_fidelity(count, splits):
    theirs = isc_features_to_metric(logits(count), splits)
    assert score(logits(count), splits) == pytest.approx(list(theirs.values()), rel=1e-12)


def test_agrees_with_torchmetrics():
    class Logits(nn.Module):
        def forward(self, x):
            return x

    theirs = Theirs(feature=Logits(), splits=1)
    theirs.update(logits(40))
    assert score(logits(40), splits=1)[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_order_and_processes_do_not_matter():
    values = logits(60)
    shuffled = score(values, order=np.random.default_rng(0).permutation(60))
    assert shuffled == pytest.approx(score(values), rel=1e-12)
    parts = [InceptionScore(60, 7), InceptionScore(60, 7)]
    for rank, part in enumerate(parts):
        part.update(values[rank::2], range(rank, 60, 2))
    parts[0]._reduce_states({name: getattr(parts[1], name) for name in ("n", "total", "negative_entropy")})
    assert [float(value) for value in parts[0].compute()] == pytest.approx(score(values), rel=1e-12)


def test_missing_samples_are_left_out():
    metric = InceptionScore(20, 5, splits=20)
    metric.update(100 * torch.eye(5), range(5))
    assert [float(value) for value in metric.compute()] == pytest.approx([1, 0])  # each split is one certain sample
