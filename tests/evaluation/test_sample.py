import torch

from pixelgen.evaluation.sample import FeatureSample


def test_all_are_kept_in_order_whatever_the_order_of_arrival():
    features = torch.rand(10, 3)
    sample = FeatureSample(10, 3)
    for indices in ([9, 0, 4], [1, 2, 3], [8, 7, 6, 5]):
        sample.update(features[indices], indices)
    assert torch.equal(sample.compute(), features)


def test_a_fixed_choice_is_kept_of_many_and_processes_add_up():
    features = torch.arange(100.0)[:, None]
    whole, parts = FeatureSample(100, 1, at_most=30), [FeatureSample(100, 1, at_most=30) for _ in range(2)]
    whole.update(features, range(100))
    for rank, part in enumerate(parts):
        part.update(features[rank::2], range(rank, 100, 2))
    parts[0]._reduce_states({name: getattr(parts[1], name) for name in ("features", "present")})
    kept = whole.compute().flatten()
    assert len(kept) == 30
    assert kept.diff().min() > 0
    assert kept.diff().max() > 4  # not evenly spaced: classes come in turn
    assert torch.equal(parts[0].compute(), whole.compute())


def test_what_never_arrives_is_left_out():
    sample = FeatureSample(4, 1)
    sample.update(torch.tensor([[0.0], [3.0]]), [0, 3])
    assert sample.compute().flatten().tolist() == [0, 3]
