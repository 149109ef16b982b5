import csv
import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn
from torchmetrics import Metric

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.scores import FID
from pixelgen.conditioner import Unconditional
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation import Comparison, Metrics, Statistics, frechet_distance
from pixelgen.flow import to_uint8
from pixelgen.samples.generate import Request, drawn, stream
from tiny_run import Means, TinyData, TinyImages, TinyModule, tiny_trainer
from toy_features import Toy, reference_of

NAME = "frechet/means"


def fit(folder, *callbacks, data=True, module=None, ckpt_path=None, **options):
    module = TinyModule(global_noise=True) if module is None else module
    trainer = tiny_trainer(folder, list(callbacks), **options)
    torch.manual_seed(1)
    trainer.fit(module, TinyData() if data else TinyData().train_dataloader(), ckpt_path=ckpt_path)
    return trainer, module


def expected_distance(module, samples=10, seed=0):
    with torch.no_grad():
        images = module.sample([i % 3 for i in range(samples)], [seed + i for i in range(samples)])
    fake, real = Means()(to_uint8(images)).double(), Means()(TinyImages().images).double()
    return frechet_distance(fake.mean(0), fake.T.cov(), real.mean(0), real.T.cov())


def test_value_of_the_first_average(tmp_path):
    ema, fid = EMA([0.5, 0.9]), FID(Means(), num_samples=10, batch_size=4)
    trainer, module = fit(tmp_path, ema, fid)
    with ema.average(module):
        expected = expected_distance(module)
    assert trainer.callback_metrics[NAME].item() == pytest.approx(expected, rel=1e-6)
    assert fid.history == [{"step": 6, NAME: pytest.approx(expected, rel=1e-6)}]
    assert {name for name in trainer.callback_metrics if name.startswith("frechet")} == {NAME}


def test_all_averages(tmp_path):
    ema, fid = EMA([0.5, 0.9]), FID(Means(), num_samples=10, decays="all", seed=3)
    trainer, module = fit(tmp_path, ema, fid)
    for decay, name in ((0.5, NAME), (0.9, f"{NAME}/0.9")):
        with ema.average(module, decay):
            expected = expected_distance(module, seed=3)
        assert trainer.callback_metrics[name].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_does_not_matter(tmp_path, batch_size):
    trainer, module = fit(tmp_path, FID(Means(), num_samples=10, batch_size=batch_size))
    assert trainer.callback_metrics[NAME].item() == pytest.approx(expected_distance(module), rel=1e-6)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_samples(world_size):
    requests = [Request("", i, i % 3) for i in range(10)]
    seen, calls = [], []
    for rank in range(world_size):
        module = TinyModule()
        for numbers, images in stream(module, requests, None, 2, rank, world_size):
            seen += [(image.sum().item(), number) for image, number in zip(images, numbers, strict=True)]
        calls.append(len(module.sampled))
    assert len(set(calls)) == 1  # sharded networks need as many calls on every rank
    whole = to_uint8(TinyModule().sample([i % 3 for i in range(10)], range(10)))
    assert sorted(seen) == sorted((image.sum().item(), i) for i, image in enumerate(whole))


def test_unlabelled(tmp_path):
    module = TinyModule(num_classes=None)
    trainer, _ = fit(tmp_path, FID(Means(), num_samples=4), module=module)
    assert trainer.callback_metrics[NAME].isfinite()
    assert json.loads((tmp_path / "evaluations.jsonl").read_text())["conditions"] == "no classes"


def test_random_classes(tmp_path):
    fid = FID(Means(), num_samples=6, seed=3, random_classes=True)
    trainer, module = fit(tmp_path, fid)
    labels = drawn(range(3), 3, 6)
    assert labels != [i % 3 for i in range(6)]
    with torch.no_grad():
        fake = Means()(to_uint8(module.sample(labels, range(3, 9)))).double()
    real = Means()(TinyImages().images).double()
    expected = frechet_distance(fake.mean(0), fake.T.cov(), real.mean(0), real.T.cov())
    assert trainer.callback_metrics[NAME].item() == pytest.approx(expected, rel=1e-6)
    assert json.loads((tmp_path / "evaluations.jsonl").read_text())["conditions"] == "random classes"
    with pytest.raises(ValueError, match=r"fid\.random_classes draws classes, and this network takes none"):
        fid.check(TinyModule(num_classes=None), None)


def test_schedule_and_logs(tmp_path):
    fid = FID(Means(), num_samples=4, every_n_steps=2, at_start=True)
    fit(tmp_path, fid, max_steps=5, logger=CSVLogger(tmp_path, "", ""))
    assert [entry["step"] for entry in fid.history] == [0, 2, 4, 5]
    with (tmp_path / "metrics.csv").open() as file:
        logged = {int(row["step"]): float(row[NAME]) for row in csv.DictReader(file) if row[NAME]}
    assert logged == {entry["step"]: pytest.approx(entry[NAME]) for entry in fid.history}


def test_tensorboard(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fid = FID(Means(), num_samples=4, every_n_steps=3)
    fit(tmp_path, fid, logger=TensorBoardLogger(tmp_path, "", ""))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars(NAME)] == [3, 6]


def test_checkpoint_can_watch_it(tmp_path):
    fid = FID(Means(), num_samples=4, every_n_steps=2)
    checkpoint = Checkpoint(every_n_steps=100, monitor=NAME)
    fit(tmp_path, fid, checkpoint, max_steps=6)
    best = min(fid.history, key=lambda entry: entry[NAME])
    assert checkpoint.best_model_score == pytest.approx(best[NAME])
    saved = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert saved["global_step"] == best["step"]


def test_history_survives_resuming(tmp_path):
    fid = FID(Means(), num_samples=4, every_n_steps=2)
    fit(tmp_path, fid, Checkpoint(every_n_steps=2), max_steps=4)
    resumed = FID(Means(), num_samples=4, every_n_steps=2, at_start=True)
    fit(tmp_path, resumed, max_steps=6, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert [entry["step"] for entry in resumed.history] == [2, 4, 6]


def test_training_does_not_notice(tmp_path):
    _, plain = fit(tmp_path)
    _, scored = fit(tmp_path, FID(Means(), num_samples=4, every_n_steps=1, at_start=True))
    assert plain.losses == scored.losses


def test_features_are_not_in_half_precision(tmp_path):
    class Watch(Means):
        def forward(self, images):
            assert not torch.is_autocast_enabled("cpu")
            return super().forward(images)

    trainer, _ = fit(tmp_path, FID(Watch(), num_samples=4), precision="bf16-mixed")
    assert trainer.callback_metrics[NAME].isfinite()


def test_reference_is_computed_once_and_kept(tmp_path, monkeypatch):
    calls = []
    original = TinyData.train_dataset
    monkeypatch.setattr(TinyData, "train_dataset", lambda self: calls.append(1) or original(self))
    fit(tmp_path, FID(Means(), num_samples=4, reference_samples=8, every_n_steps=2))
    assert len(calls) == 2  # to see that it is no stream, and for the reference
    assert Statistics.load(tmp_path / "reference_means.npz", Means()).n == 8


def test_reference_file_and_folder(tmp_path):
    mu, sigma = np.zeros(3), np.eye(3)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma)
    trainer, _ = fit(tmp_path, FID(Means(), tmp_path / "adm.npz", num_samples=10), data=False)
    assert trainer.callback_metrics[NAME] > 1
    (tmp_path / "images").mkdir()
    for i, image in enumerate(TinyImages().images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"images/{i:02d}.png")
    trainer, module = fit(tmp_path, FID(Means(), tmp_path / "images", num_samples=10), data=False)
    assert trainer.callback_metrics[NAME].item() == pytest.approx(expected_distance(module), rel=1e-6)
    with pytest.raises(ValueError, match="no data module"):
        fit(tmp_path, FID(Means(), num_samples=4), data=False)


class MeanLabel(Metric):
    """Counts what it is shown."""

    def __init__(self, named=True):
        super().__init__()
        self.named = named
        self.add_state("images", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("labels", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, images, labels):
        assert images.dtype == torch.uint8
        self.images += len(images)
        self.labels += labels.sum()

    def compute(self):
        return {"accuracy/images": self.images, "accuracy/labels": self.labels} if self.named else self.labels


def test_accuracy_sees_the_same_images(tmp_path):
    fid = FID(Means(), num_samples=10, batch_size=4, every_n_steps=3, accuracy=MeanLabel())
    trainer, module = fit(tmp_path, fid)
    assert len(module.sampled) == 20
    for entry in fid.history:
        assert (entry["accuracy/images"], entry["accuracy/labels"]) == (10, 9)
    assert trainer.callback_metrics["accuracy/images"] == 10
    trainer, _ = fit(tmp_path, FID(Means(), num_samples=10, accuracy=MeanLabel(named=False)))
    assert trainer.callback_metrics["meanlabel"] == 9


def test_protocol_is_recorded(tmp_path):
    fit(tmp_path, EMA([0.5]), FID(Means(), num_samples=4, every_n_steps=3))
    records = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [3, 6]
    expected = {
        "samples": 4,
        "conditions": "each class in turn",
        "average": "0.5",
        "extractor": "means",
        "reference_samples": 16,
        "seed": 0,
    }
    assert expected.items() <= records[0].items()
    assert records[0]["sampler"]["class"] == "Euler"
    assert len(records[0]["reference_fingerprint"]) == 16


def test_only_inception_makes_a_fid(monkeypatch):
    from pixelgen.encoders.inception import Inception

    assert Means().metric("frechet") == NAME
    monkeypatch.setattr(Inception, "__init__", lambda self: FeatureExtractor.__init__(self, nn.Identity(), "x", 3))
    assert Inception().metric("frechet") == "fid"


def test_too_few_samples_warn_once():
    with pytest.warns(UserWarning, match="3 samples are too few for 3 features") as caught:
        FID(Means(), num_samples=3)
    assert len(caught) == 1


def test_arguments():
    with pytest.raises(ValueError, match="at least 2"):
        FID(Means(), num_samples=1)


class OnlyAtEnd(Callback):
    def on_train_end(self, trainer, pl_module):
        self.metrics = dict(trainer.callback_metrics)


def test_value_of_the_last_step_reaches_later_callbacks(tmp_path):
    look = OnlyAtEnd()
    fit(tmp_path, FID(Means(), num_samples=4), look)
    assert NAME in look.metrics


def test_captions_of_the_data_are_prompts_in_their_order(tmp_path):
    class Captioned(TinyData):
        captions = True

        def prompts(self, count):
            return [f"shape {i}" for i in range(count)]

    class Captions(Unconditional):
        description = "captions of the data in order"
        examples = staticmethod(lambda number, data: data.prompts(number))
        from_batch = staticmethod(lambda batch: None)

    class Prompted(TinyModule):
        def sample(self, condition=None, seeds=0, **options):
            self.asked = [*getattr(self, "asked", []), *zip(condition, seeds, strict=True)]
            return torch.rand(len(condition), 3, 8, 8)

    module = Prompted(num_classes=None)
    module.conditioner = Captions()
    tiny_trainer(tmp_path, [FID(Means(), num_samples=5, batch_size=3, seed=7)]).fit(module, Captioned())
    assert module.asked == [(f"shape {i}", 7 + i) for i in range(5)]
    assert json.loads((tmp_path / "evaluations.jsonl").read_text())["conditions"] == "captions of the data in order"


SMALL = Metrics(sfid=True, kid_subsets=2, kid_subset_size=5, splits=2)


def test_every_metric_in_the_same_pass(tmp_path):
    extractor = Toy()
    fid = FID(extractor, num_samples=10, batch_size=4, metrics=SMALL, every_n_steps=3)
    trainer, module = fit(tmp_path, fid)
    assert extractor.passes == 4 + 2 * 3  # the reference once, then three batches at each of two evaluations
    expected = Comparison(Toy(), reference_of(TinyImages().images, SMALL), 10, SMALL)
    with torch.no_grad():
        images = to_uint8(module.sample([i % 3 for i in range(10)], range(10)))
    expected.update(images, range(10))
    scores = expected.scores()
    assert len(scores) == 8
    logged = {name: trainer.callback_metrics[name].item() for name in scores}
    assert logged == pytest.approx(scores, rel=1e-5)
    record = json.loads((tmp_path / "evaluations.jsonl").read_text().splitlines()[-1])
    assert {"splits": 2, "kid_subset_size": 5, "neighbours": 3}.items() <= record.items()


def test_the_best_of_any_average_and_metric_can_be_watched(tmp_path):
    fid = FID(Toy(), num_samples=10, metrics=SMALL, every_n_steps=2, decays="all")
    name = "spatial_frechet/toy/0.9"
    checkpoint = Checkpoint(every_n_steps=100, monitor=name)
    fit(tmp_path, EMA([0.5, 0.9]), fid, checkpoint)
    best = min(fid.history, key=lambda entry: entry[name])
    assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == best["step"]


def test_features_of_a_reference_file_come_from_its_images(tmp_path):
    images = TinyImages().images
    statistics = reference_of(images, SMALL)
    moments = {name: getattr(statistics, name).numpy() for name in ("mu", "sigma", "mu_s", "sigma_s")}
    np.savez(tmp_path / "adm.npz", **moments, arr_0=images.permute(0, 2, 3, 1).numpy())
    trainer, _ = fit(tmp_path, FID(Toy(), num_samples=10, metrics=SMALL))
    expected = dict(trainer.callback_metrics)
    trainer, _ = fit(tmp_path, FID(Toy(), tmp_path / "adm.npz", num_samples=10, metrics=SMALL), data=False)
    for name, value in expected.items():
        assert trainer.callback_metrics[name].item() == pytest.approx(value.item(), rel=1e-6)


def test_what_cannot_be_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="since 10 images are fewer than 1000"):
        FID(Means(), num_samples=10, metrics=Metrics(kid=True))
    np.savez(tmp_path / "five.npz", mu=np.zeros(5), sigma=np.eye(5))
    fid = FID(Means(), tmp_path / "five.npz", num_samples=10, every_n_steps=1)
    with pytest.raises(ValueError, match="have 5 features but means makes 3"):
        fit(tmp_path, fid)
    assert fid.history == []
    np.savez(tmp_path / "three.npz", mu=np.zeros(3), sigma=np.eye(3))
    fid = FID(Means(), tmp_path / "three.npz", num_samples=10, metrics=Metrics(precision_recall=True))
    with pytest.raises(ValueError, match="since the reference holds no features of images: leave it out"):
        fit(tmp_path, fid)
