"""Features and moments of a set of images do not depend on batches, order and the number of processes."""

import pytest
import torch

from pixelgen.evaluation import Metrics
from pixelgen.evaluation import extract as module
from pixelgen.evaluation.extract import Extraction, Rows
from toy_features import Toy, draw

ALL = ("spatial", "features", "logits")


def extracted(images, needs=ALL, batch=7, total=None, indices=None, at_most=10_000):
    extraction = Extraction(Toy(), total or len(images), needs, Metrics(max_features=at_most))
    indices = list(range(len(images))) if indices is None else indices
    for start in range(0, len(images), batch):
        extraction.update(images[start : start + batch], indices[start : start + batch])
    return extraction


def assert_equal(one, two):
    for name in ("mu", "sigma", "mu_s", "sigma_s", "features", "logits"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-9, atol=1e-12)
    assert (one.n, one.extractor) == (two.n, two.extractor)


def test_statistics_of_images():
    images = draw(30)
    found, outputs = extracted(images).statistics(), Toy().outputs(images, ("features", "spatial", "logits"))
    torch.testing.assert_close(found.mu, outputs["features"].double().mean(0))
    torch.testing.assert_close(found.sigma, outputs["features"].double().T.cov())
    torch.testing.assert_close(found.sigma_s, outputs["spatial"].double().T.cov())
    torch.testing.assert_close(found.features, outputs["features"])
    torch.testing.assert_close(found.logits, outputs["logits"])
    assert (found.n, found.extractor) == (30, "toy")


def test_batch_size_and_order_do_not_matter():
    images, order = draw(30), torch.randperm(30, generator=torch.Generator().manual_seed(3)).tolist()
    shuffled = extracted(images[order], batch=4, indices=order).statistics()
    torch.testing.assert_close(shuffled.features, extracted(images).statistics().features)
    assert_equal(shuffled, extracted(images).statistics())


def test_two_processes_equal_one(monkeypatch):
    images = draw(31)
    parts = [extracted(images[rank::2], total=31, indices=list(range(rank, 31, 2))) for rank in (0, 1)]
    for name in ("features", "spatial"):
        first, second = (part.moments[name] for part in parts)
        first._reduce_states(dict(second.metric_state))
        first._update_count = 1
    others = {id(parts[0].rows[name].kept): parts[1].rows[name].kept for name in parts[0].rows}
    monkeypatch.setattr(module, "gather", lambda values: values + others.get(id(values), []))
    assert_equal(parts[0].statistics(), extracted(images).statistics())


def test_features_of_a_fixed_choice_are_kept():
    rows = extracted(draw(100), at_most=30).rows["features"]
    chosen = sorted(rows.chosen)
    assert len(chosen) == 30
    assert max(torch.tensor(chosen).diff()) > 4  # not evenly spaced: classes come in turn
    assert torch.equal(rows.gather(), Toy()(draw(100)[chosen]))


def test_rows_come_back_in_the_order_of_their_numbers():
    vectors, rows = torch.rand(10, 3), Rows()
    for numbers in ([9, 0, 4], [1, 2, 3], [8, 7, 5]):  # 6 never comes
        rows.update(vectors[numbers], numbers)
    assert torch.equal(rows.gather(), vectors[[0, 1, 2, 3, 4, 5, 7, 8, 9]])


def test_few_images_are_kept_of_many():
    def size(total):
        extraction = extracted(draw(20), total=total, at_most=10, indices=range(total - 20, total))
        return sum(len(numbers) for numbers, _ in extraction.rows["features"].kept)

    assert max(size(20), size(1000)) <= 10


def test_extractors_run_in_full_float32():
    class Watch(Toy):
        def outputs(self, images, wanted=("features",)):
            self.found = states()
            return super().outputs(images, wanted)

    def states():
        cudnn = torch.backends.cudnn
        convolutions = cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32
        return convolutions, torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")

    torch.set_float32_matmul_precision("high")
    try:
        extraction = Extraction(Watch(), 30)
        with torch.autocast("cpu", torch.bfloat16):
            extraction.update(draw(30), range(30))
            assert extraction.extractor.found == (False, "highest", False)
            assert states() == (True, "high", True)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_number_of_features_must_fit():
    with pytest.raises(ValueError, match=r"want features \(B, 6\)"):
        Extraction(Toy(), 3).moments["features"].update(torch.zeros(2, 5))
