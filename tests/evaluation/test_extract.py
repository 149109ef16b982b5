import pytest
import torch

from pixelgen.evaluation import Evaluation, FeatureStatistics, InceptionScore, Metrics, frechet_distance
from pixelgen.evaluation import extract as evaluation_module
from pixelgen.evaluation.extract import ONLY_FRECHET, warn_of_few
from pixelgen.evaluation.reference import reference_statistics
from pixelgen.evaluation.statistics import Statistics
from tiny_run import Means
from toy_features import Toy, draw

SMALL = Metrics(kid_subsets=5, kid_subset_size=10, splits=2)
EVERYTHING = {"frechet/toy", "spatial_frechet/toy", "precision/toy", "recall/toy", "kid/toy", "kid_std/toy",
              "inception_score/toy", "inception_score_std/toy"}  # fmt: skip


def seen(images, metrics=SMALL, batch=7, total=None, indices=None):
    evaluation = Evaluation(Toy(), total or len(images), metrics)
    indices = list(range(len(images))) if indices is None else indices
    for start in range(0, len(images), batch):
        evaluation.update(images[start : start + batch], indices[start : start + batch])
    return evaluation


@pytest.fixture(scope="module")
def real():
    return seen(draw(40, seed=1, brightness=30), SMALL.of_reference()).statistics()


def test_everything_in_one_pass(real):
    images = draw(30)
    evaluation = seen(images)
    scores = evaluation.scores(real)
    assert set(scores) == EVERYTHING
    assert evaluation.extractor.passes == 5
    whole = Toy().outputs(images, ("features", "spatial"))
    features, spatial = whole["features"].double(), whole["spatial"].double()
    expected = frechet_distance(features.mean(0), features.T.cov(), real.mu, real.sigma)
    assert scores["frechet/toy"] == pytest.approx(expected, rel=1e-9)
    expected = frechet_distance(spatial.mean(0), spatial.T.cov(), real.mu_s, real.sigma_s)
    assert scores["spatial_frechet/toy"] == pytest.approx(expected, rel=1e-9)


def test_what_is_off_is_neither_computed_nor_kept(real):
    class Watch(Toy):
        def outputs(self, images, wanted=("features",)):
            self.asked = list(wanted)
            return super().outputs(images, wanted)

    evaluation = Evaluation(Watch(), 30)
    evaluation.update(draw(30), range(30))
    assert evaluation.extractor.asked == ["features"]
    assert set(evaluation.scores(real)) == {"frechet/toy"}
    assert [type(part) for part in evaluation.modules() if hasattr(part, "add_state")] == [FeatureStatistics]
    only_score = Evaluation(Watch(), 30, Metrics(sfid=False, precision_recall=False, kid=False))
    kinds = [type(part) for part in only_score.modules() if hasattr(part, "add_state")]
    assert kinds == [FeatureStatistics, InceptionScore]


def test_memory_does_not_grow_with_the_number_of_images():
    def size(total):
        states = [part.metric_state for part in Evaluation(Toy(), total).modules() if hasattr(part, "metric_state")]
        return sum(value.numel() for state in states for value in state.values())

    assert size(10_000) == size(1_000_000)


def test_batch_size_and_order_do_not_matter(real):
    images, order = draw(30), torch.randperm(30, generator=torch.Generator().manual_seed(3)).tolist()
    expected = seen(images).scores(real)
    assert seen(images[order], batch=4, indices=order).scores(real) == pytest.approx(expected, rel=1e-6)


def test_two_processes_equal_one(real):
    images = draw(31)
    parts = [seen(images[rank::2], total=31, indices=list(range(rank, 31, 2))) for rank in (0, 1)]
    for name in ("all", "spatial", "logits", "some"):
        first, second = (getattr(part, name) for part in parts)
        first._reduce_states(dict(second.metric_state))
        first._update_count = 1
    assert parts[0].scores(real) == pytest.approx(seen(images).scores(real), rel=1e-9)


def test_too_few_readable_images_are_told_on_every_process(real, monkeypatch):
    told = []
    monkeypatch.setattr(evaluation_module, "first", lambda value: told.append(value) or value)
    incomplete = seen(draw(6), SMALL, total=30)  # the others of 30 could not be read
    with pytest.raises(ValueError, match="subsets of 10 needs as many images, got 6 generated"):
        incomplete.scores(real)
    assert len(told) == 1  # the first process tells the others, which would wait for its numbers


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
        evaluation = Evaluation(Watch(), 30)
        with torch.autocast("cpu", torch.bfloat16):
            evaluation.update(draw(30), range(30))
            assert evaluation.extractor.found == (False, "highest", False)
            assert states() == (True, "high", True)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_nulls_are_decided_by_extractor_reference_and_number(real):
    assert Metrics().possible(Means(), 2000, None) == Metrics(False, False, True, True)
    assert Metrics().possible(Toy(), 30, real) == Metrics(True, True, True, False)
    bare = Statistics(real.mu, real.sigma)
    assert Metrics().possible(Toy(), 2000, bare) == Metrics(False, True, False, False)
    assert Metrics(kid_subset_size=35, max_features=30).possible(Toy(), 40, real).kid is False
    for metrics, reason in (
        (Metrics(sfid=True), "the reference has no spatial features"),
        (Metrics(kid=True), "the reference holds no features of images"),
        (Metrics(precision_recall=True), "the reference holds no features"),
    ):
        with pytest.raises(ValueError, match=f"cannot be computed, since {reason}"):
            metrics.possible(Toy(), 2000, bare)
    with pytest.raises(ValueError, match="since means makes no logits of classes: leave it out"):
        Metrics(inception_score=True).possible(Means(), 2000, None)
    with pytest.raises(ValueError, match="since 30 images are fewer than 1000"):
        Metrics(kid=True).possible(Toy(), 30, None)
    with pytest.raises(ValueError, match=r"metrics.splits is 0: give at least 1"):
        Metrics(splits=0)


def test_protocol_names_what_numbers_depend_on():
    assert ONLY_FRECHET.protocol() == {}
    assert Metrics(kid=True, inception_score=False, precision_recall=False).protocol() == {
        "kid_subsets": 100, "kid_subset_size": 1000, "max_features": 10_000, "seed": 2020,
    }  # fmt: skip


def test_reference_of_a_part(real):
    class Items(torch.utils.data.Dataset):
        images = draw(40, seed=1, brightness=30)

        def __len__(self):
            return 40

        def __getitem__(self, index):
            return {"image": self.images[index]}

    measured = reference_statistics(Items(), Toy(), metrics=SMALL, batch_size=9)
    assert torch.equal(measured.features, real.features)
    torch.testing.assert_close(measured.sigma_s, real.sigma_s, rtol=1e-9, atol=1e-12)
    part = reference_statistics(Items(), Toy(), 10, metrics=SMALL)
    assert torch.equal(part.features, real.features[::4])


def test_too_few_samples_warn():
    with pytest.warns(UserWarning, match="6 samples are too few for 6 features"):
        warn_of_few(6, Toy())
