"""A score of one's own beside the named ones, in one file outside of the package: from Python, flags and YAML."""

import json

import pytest
import torch

from my_scores import MeanDistance, Spread
from pixelgen.evaluate import evaluate, main
from pixelgen.evaluation import Comparison, Metrics, Statistics
from pixelgen.fit import main as fit
from toy_features import Toy, draw, reference_of, write_folder

ONLY = {"sfid": False, "inception_score": False, "precision_recall": False, "kid": False}
REAL = draw(40, seed=1, brightness=30)


def expected(scale):
    ours, theirs = Toy()(draw(30)), Toy()(REAL)
    distance = (ours.double().mean(0) - theirs.double().mean(0)).norm()
    return {
        "mean_distance/toy": scale * float(distance),
        "diversity/toy": float(ours.std(0).mean() / theirs.std(0).mean()),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    return write_folder(draw(30), root / "made"), write_folder(REAL, root / "real")


def test_from_python(folders):
    metrics = Metrics(**ONLY, more=[MeanDistance(2.0)])
    comparison = Comparison(Toy(), reference_of(REAL, metrics), 30, metrics)
    comparison.update(draw(30), range(30))
    assert expected(2).items() <= {name: pytest.approx(v) for name, v in comparison.scores().items()}.items()
    scores = evaluate(folders[0], reference=folders[1], extractor=Toy(), metrics=metrics, num_workers=0)
    assert [*scores] == ["frechet/toy", "mean_distance/toy", "diversity/toy"]
    assert scores.protocol["features"][0]["settings"]["scale"] == 2


@pytest.mark.parametrize("flags", [
    ["--metrics.more", "[{class_path: my_scores.MeanDistance, init_args: {scale: 3}}]"],
    ["--metrics.more+", "my_scores.MeanDistance", "--metrics.more.scale", "3"],
], ids=["list", "appended"])  # fmt: skip
def test_from_the_command_line(folders, flags, tmp_path):
    off = [f"--metrics.{name}=false" for name in ONLY]
    arguments = [str(folders[0]), "--reference", str(folders[1]), "--extractor", "toy_features.Toy", *off, *flags]
    main([*arguments, "--num_workers", "0", "--to", str(tmp_path / "scores.json")])
    ((record),) = json.loads((tmp_path / "scores.json").read_text())
    assert {name: record["scores"][name] for name in expected(3)} == pytest.approx(expected(3))


CONFIG = """
model: {denoiser: my_parts.Attributes, conditioner: my_parts.ShapeAndColor, sampler: {num_steps: 2}}
data: {class_path: my_parts.Few}
callbacks:
  preview: null
  fid:
    extractor: toy_features.Toy
    num_samples: 8
    reference_samples: 16
    metrics:
      sfid: false
      inception_score: false
      more: [{class_path: my_scores.MeanDistance, init_args: {scale: 2}}]
trainer: {max_steps: 1, limit_val_batches: 0, accelerator: cpu, enable_progress_bar: false}
"""


def test_from_yaml_in_training(tmp_path):
    (tmp_path / "own.yaml").write_text(CONFIG)
    flags = ["--callbacks.fid.metrics.kid", "false", "--callbacks.fid.metrics.precision_recall", "false"]
    fit(["--config", str(tmp_path / "own.yaml"), "--run", str(tmp_path / "run"), *flags])
    record = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert {"mean_distance/toy", "diversity/toy", "frechet/toy"} <= set(record)
    assert not {"kid/toy", "precision/toy", "spatial_frechet/toy"} & set(record)
    assert record["scale"] == 2
    assert "scale: 2" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_single_number_is_enough():
    metrics = Metrics(**ONLY, more=[Spread()])
    comparison = Comparison(Toy(), reference_of(REAL, metrics), 30, metrics)
    comparison.update(draw(30), range(30))
    ratio = Toy()(draw(30)).double().var(0).sum() / Toy()(REAL).double().var(0).sum()
    assert comparison.scores()["spread/toy"] == pytest.approx(float(ratio))


def test_what_it_lacks_is_told():
    bare = Statistics(torch.zeros(6), torch.eye(6))
    with pytest.raises(ValueError, match=r"metrics.mean_distance cannot be computed, since the reference holds"):
        Metrics(more=[MeanDistance()]).choose(Toy(), 30, bare)
