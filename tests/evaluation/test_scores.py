"""Scores one by one: on paper, as frozen numbers of earlier versions, and against other libraries."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.inception import InceptionScore as Theirs
from torchmetrics.image.kid import poly_mmd

from pixelgen.evaluation import KID, Comparison, InceptionScore, Metrics, PrecisionRecall, Statistics
from pixelgen.evaluation import extract as module
from pixelgen.evaluation.scores import ONLY_FRECHET, warn_of_few
from tiny_run import Means
from toy_features import Toy, draw, reference_of

SMALL = Metrics(kid_subsets=5, kid_subset_size=10, splits=2)
EVERYTHING = {"frechet/toy", "spatial_frechet/toy", "precision/toy", "recall/toy", "kid/toy", "kid_std/toy",
              "inception_score/toy", "inception_score_std/toy"}  # fmt: skip


def vectors(count, size, seed, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def numbers(score, generated, real=None):
    if score.needs == ("logits",):
        none = Statistics(torch.zeros(1), torch.zeros(1, 1), logits=generated)
        return [*score.compute(none, none).values()]
    return [*score.compute(Statistics.of(generated), Statistics.of(real)).values()]


def compared(images, real, metrics=SMALL, total=None):
    comparison = Comparison(Toy(), real, total or len(images), metrics)
    for start in range(0, len(images), 7):
        comparison.update(images[start : start + 7], range(start, min(start + 7, len(images))))
    return comparison


@pytest.fixture(scope="module")
def real():
    return reference_of(draw(40, seed=1, brightness=30), SMALL)


# --- Inception Score


def test_certain_and_even_classes_score_their_number():
    assert numbers(InceptionScore(1), 100 * torch.eye(5).repeat(4, 1)) == pytest.approx([5, 0])
    assert numbers(InceptionScore(2), 100 * torch.eye(5)[[2] * 20]) == pytest.approx([1, 0])


def test_inception_score_is_as_ever():
    logits = vectors(53, 7, 0, scale=3)
    assert numbers(InceptionScore(10), logits) == pytest.approx([2.5689799132257107, 0.6953078654091354], rel=1e-7)
    assert numbers(InceptionScore(4), logits) == pytest.approx([2.830628994417738, 0.46376739916627285], rel=1e-7)


def test_inception_score_agrees_with_torchmetrics():
    class Logits(nn.Module):
        def forward(self, x):
            return x

    logits = vectors(40, 7, 0, scale=3)
    theirs = Theirs(feature=Logits(), splits=1)
    theirs.update(logits)
    assert numbers(InceptionScore(1), logits)[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_no_split_is_empty():
    assert numbers(InceptionScore(20), 100 * torch.eye(5)) == pytest.approx([1, 0])  # each split is one certain image


# --- KID


def test_kid_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    # (xy + 1)³: within both sets 1; across: k(0,0) = 1, k(0,2) = 1, k(1,0) = 1, k(1,2) = 27, mean 7.5
    assert numbers(KID(1, 2), x, y)[0] == pytest.approx(1 + 1 - 2 * 7.5)


def test_kid_is_as_ever():
    found = numbers(KID(7, 20), vectors(60, 6, 1), vectors(80, 6, 2, shift=0.5))
    assert found == pytest.approx([1.4496294286700575, 0.5469152016717438], rel=1e-7)


def test_kid_agrees_with_torchmetrics_on_all_features():
    generated, real = vectors(40, 6, 1), vectors(40, 6, 2, shift=0.5)
    ours, deviation = numbers(KID(2, 40), generated, real)
    assert ours == pytest.approx(float(poly_mmd(real.double(), generated.double())), rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kid_is_unbiased():
    """Sets of one distribution are 0 apart on average, which a biased estimate would not give."""
    mean, deviation = numbers(KID(40, 50), vectors(2000, 6, 1), vectors(2000, 6, 2))
    assert abs(mean) < 0.5 * deviation


# --- precision and recall


def test_precision_and_recall_by_hand():
    # k = 1; radii of the real ones 1, 1, 2, of the generated ones 2, 1, 1
    real = torch.tensor([[0.0], [1.0], [3.0]])
    generated = torch.tensor([[4.5], [6.5], [7.5]])
    # only 4.5 lies within 2 of 3; only 3 lies within 2 of 4.5
    assert numbers(PrecisionRecall(1), generated, real) == pytest.approx([1 / 3, 1 / 3])


def test_precision_and_recall_of_equal_and_distant_sets():
    here = vectors(20, 5, 0)
    assert numbers(PrecisionRecall(), here, here) == [1, 1]
    assert numbers(PrecisionRecall(), here, here + 100) == [0, 0]
    few_modes = here[:1] + 0.01 * vectors(20, 5, 1)
    precision, recall = numbers(PrecisionRecall(), few_modes, here)
    assert precision == 1
    assert recall < 0.3


def among(points, others, k):
    """Which points lie in a ball around one of the others, up to its k-th nearest other: one by one, in float64."""
    points, others = points.double().numpy(), others.double().numpy()
    radii = [sorted(((other - x) ** 2).sum() for x in others)[k] for other in others]  # the nearest is itself
    return [any(((x - y) ** 2).sum() <= radius for y, radius in zip(others, radii, strict=True)) for x in points]


def test_precision_and_recall_are_of_all_generated_images_against_the_features_of_the_reference():
    metrics = Metrics(sfid=False, inception_score=False, kid=False, max_features=12)
    made, images = draw(60), draw(40, seed=1, brightness=30)
    real = reference_of(images, metrics)
    scores = compared(made, real, metrics).scores()
    kept = np.random.RandomState(2020).permutation(40)[:12]
    ours, theirs = Toy()(made), Toy()(images)[sorted(kept)]
    assert torch.equal(real.features, theirs)
    assert scores["precision/toy"] == pytest.approx(np.mean(among(ours, theirs, 3)))
    assert scores["recall/toy"] == pytest.approx(np.mean(among(theirs, ours, 3)))
    fewer = among(theirs, ours[:12], 3)  # 12 against 12, as it once was
    assert np.mean(fewer) < scores["recall/toy"]


@pytest.mark.parametrize(
    ("generated", "real", "expected"), [(50, 70, [0.54, 0.8142857142857143]), (5000, 3000, [0.8616, 0.868])]
)
def test_precision_and_recall_are_as_ever(generated, real, expected):
    found = numbers(PrecisionRecall(3), vectors(generated, 5, 1), vectors(real, 5, 2, shift=0.8))
    assert found == pytest.approx(expected, abs=1e-7)


# --- all of them


@pytest.mark.parametrize(("at_most", "recall", "kid", "deviation"), [
    (10_000, 0.8, 0.0007502239412563227, 0.005517830711632479),
    (20, 0.75, -0.004931277492777131, 0.0023221694489420843),
])  # fmt: skip
def test_all_scores_are_as_ever(at_most, recall, kid, deviation):
    metrics = Metrics(kid_subsets=5, kid_subset_size=10, splits=2, max_features=at_most)
    found = compared(draw(30), reference_of(draw(40, seed=1, brightness=30), metrics), metrics).scores()
    expected = {
        "frechet/toy": 0.010599609660245701, "spatial_frechet/toy": 0.0063061371252724485, "precision/toy": 1.0,
        "recall/toy": recall, "kid/toy": kid, "kid_std/toy": deviation,
        "inception_score/toy": 1.0079515196993873, "inception_score_std/toy": 0.0002414265221944989,
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_everything_in_one_pass(real):
    comparison = compared(draw(30), real)
    assert set(comparison.scores()) == EVERYTHING
    assert comparison.extractor.passes == 5


def test_what_is_off_is_neither_computed_nor_kept(real):
    class Watch(Toy):
        def outputs(self, images, wanted=("features",)):
            self.asked = list(wanted)
            return super().outputs(images, wanted)

    comparison = Comparison(Watch(), real, 30)
    comparison.update(draw(30), range(30))
    assert comparison.extractor.asked == ["features"]
    assert set(comparison.scores()) == {"frechet/toy"}
    assert comparison.rows == {}
    only_score = Comparison(Watch(), real, 30, Metrics(sfid=False, precision_recall=False, kid=False))
    assert (set(only_score.moments), set(only_score.rows)) == ({"features"}, {"logits"})


def test_features_that_are_not_finite_make_no_score(real):
    class Broken(Toy):
        def outputs(self, images, wanted=("features",)):
            return {name: value / 0 for name, value in super().outputs(images, wanted).items()}

    comparison = Comparison(Broken(), real, 30)
    comparison.update(draw(30), range(30))
    with pytest.raises(ValueError, match="toy makes features that are not finite"):
        comparison.scores()


def test_too_few_readable_images_are_told_on_every_process(real, monkeypatch):
    told = []
    monkeypatch.setattr(module, "first", lambda value: told.append(value) or value)
    incomplete = compared(draw(6), real, total=30)  # the others of 30 could not be read
    with pytest.raises(ValueError, match=r"metrics.kid cannot be computed, since 6 images are fewer than 10"):
        incomplete.scores()
    assert told == []  # every process knows it by itself: none waits for the first one's numbers


def names(scores):
    return [score.name for score in scores]


def test_nulls_are_decided_by_extractor_reference_and_number(real):
    assert names(Metrics().choose(Means(), 2000)[0]) == ["frechet", "precision_recall", "kid"]
    scores, left_out = Metrics().choose(Toy(), 30, real)
    found = names(scores)
    assert found == ["frechet", "spatial_frechet", "inception_score", "precision_recall"]
    assert left_out == {"kid": "30 images are fewer than 1000"}
    bare = Statistics(real.mu, real.sigma)
    assert names(Metrics().choose(Toy(), 2000, bare)[0]) == ["frechet", "inception_score"]
    assert "kid" in names(Metrics(kid_subset_size=35, max_features=30).choose(Toy(), 40, real)[0])
    assert "kid" not in names(Metrics(kid_subset_size=35, max_features=30).choose(Toy(), 40)[0])
    for metrics, reason in (
        (Metrics(sfid=True), "the reference has no spatial features"),
        (Metrics(kid=True), "the reference holds no features of images"),
        (Metrics(precision_recall=True), "the reference holds no features"),
    ):
        with pytest.raises(ValueError, match=f"cannot be computed, since {reason}"):
            metrics.choose(Toy(), 2000, bare)
    with pytest.raises(ValueError, match="since means makes no logits of classes: leave it out"):
        Metrics(inception_score=True).choose(Means(), 2000)
    with pytest.raises(ValueError, match="since 30 images are fewer than 1000"):
        Metrics(kid=True).choose(Toy(), 30)
    with pytest.raises(ValueError, match=r"metrics.splits is 0: give a whole number of at least 1"):
        Metrics(splits=0)


def test_protocol_names_what_numbers_depend_on():
    assert ONLY_FRECHET.settings(ONLY_FRECHET.choose(Toy(), 2000)[0]) == {}
    metrics = Metrics(kid=True, sfid=False, inception_score=False, precision_recall=False)
    assert metrics.settings(metrics.choose(Toy(), 2000)[0]) == {
        "kid_subsets": 100, "kid_subset_size": 1000, "max_features": 10_000, "seed": 2020,
    }  # fmt: skip
    assert Metrics().settings(Metrics(sfid=False).choose(Toy(), 30)[0]) == {
        "splits": 10, "neighbours": 3, "max_features": 10_000, "seed": 2020,
    }  # fmt: skip


def test_too_few_samples_warn():
    with pytest.warns(UserWarning, match="6 samples are too few for 6 features"):
        warn_of_few(6, Toy())
