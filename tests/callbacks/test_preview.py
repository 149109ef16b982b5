import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from PIL import Image

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.preview import Preview
from pixelgen.flow import to_uint8
from tiny_run import Prompts, TinyData, TinyModule, tiny_trainer


def fit(folder, *callbacks, module=None, ckpt_path=None, **options):
    module = TinyModule(global_noise=True) if module is None else module
    trainer = tiny_trainer(folder, list(callbacks), **options)
    torch.manual_seed(1)
    trainer.fit(module, TinyData(), ckpt_path=ckpt_path)
    return module


def pictures(folder):
    return sorted(path.name for path in (folder / "previews").iterdir())


def test_files(tmp_path):
    fit(tmp_path, Preview(every_n_steps=4, num_images=6, columns=3, at_start=True), max_steps=6)
    assert pictures(tmp_path) == ["progress.png"] + [f"step_000000{i}.png" for i in (0, 4, 6)]
    assert Image.open(tmp_path / "previews/step_0000004.png").size == (3 * 10 + 2, 2 * 10 + 2)
    assert Image.open(tmp_path / "previews/progress.png").size[1] == 3 * 10 + 2


def test_nothing_twice_or_unasked(tmp_path):
    module = fit(tmp_path, Preview(every_n_steps=3, num_images=2), max_steps=6)
    assert pictures(tmp_path) == ["progress.png", "step_0000003.png", "step_0000006.png"]
    assert module.sampled == [0, 1, 0, 1]
    assert fit(tmp_path, Preview(every_n_steps=None, num_images=2, at_end=False)).sampled == []


def test_accumulated_batches_preview_once(tmp_path):
    module = fit(tmp_path, Preview(every_n_steps=1, num_images=1), max_steps=2, accumulate_grad_batches=2)
    assert module.sampled == [0, 0]


def test_picture_shows_the_average(tmp_path):
    ema = EMA([0.9])
    module = fit(tmp_path, ema, Preview(every_n_steps=None, num_images=3, seed=5))
    with ema.average(module), torch.no_grad():
        expected = to_uint8(module.sample([0, 1, 2], [5, 6, 7]))
    grid = np.array(Image.open(tmp_path / "previews/step_0000006.png"))
    assert np.array_equal(grid[2:10, 12:20], expected[1].permute(1, 2, 0).numpy())


def test_training_does_not_notice(tmp_path):
    plain = fit(tmp_path)
    previewed = fit(tmp_path, EMA([0.5]), Preview(every_n_steps=1, num_images=2, at_start=True))
    assert plain.losses == previewed.losses
    for one, two in zip(plain.parameters(), previewed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_modes_are_put_back_one_by_one(tmp_path):
    class Modes(TinyModule):
        def on_train_start(self):
            self.denoiser.y_embedder.eval()

        def sample(self, *args, **kwargs):
            assert not self.denoiser.training
            return super().sample(*args, **kwargs)

        def on_train_batch_end(self, *args):
            assert self.denoiser.training
            assert not self.denoiser.y_embedder.training

    fit(tmp_path, Preview(every_n_steps=1, num_images=1), module=Modes())


@pytest.mark.parametrize(
    ("num_classes", "labels", "expected"),
    [
        (3, None, [0, 1, 2, 0]),
        (8, None, [0, 2, 4, 6]),
        (None, None, [None] * 4),
        (3, [2, 1], [2, 1, 2, 1]),
    ],
)
def test_labels(num_classes, labels, expected):
    assert Preview(num_images=4, labels=labels)._requests(TinyModule(num_classes), None) == expected


def test_labels_by_name_are_those_of_the_data():
    module = TinyModule(3)
    module.conditioner.take_names(["ant", "2", "cat"])
    assert Preview(num_images=4, labels=["cat", "ant", 2])._requests(module, None) == [2, 0, 2, 2]
    for label, message in (("2", r"'2' may be number:2 \('cat'\) or number:1"), ("bea", "there is no class 'bea'")):
        with pytest.raises(ValueError, match=f"preview.labels are .*{message}"):
            Preview(labels=[label]).check(module, None)


def test_loggers_that_take_images(tmp_path):
    class Images(Logger):
        name, version, seen = "images", 0, []

        def log_image(self, key, images, step):
            self.seen.append((key, images[0].size, step))

        def log_metrics(self, *args, **kwargs): ...

        def log_hyperparams(self, *args, **kwargs): ...

    board = TensorBoardLogger(tmp_path / "board", "", "")
    images = Images()
    fit(tmp_path, Preview(every_n_steps=None, num_images=2), logger=[board, images, CSVLogger(tmp_path, "", "")])
    assert images.seen == [("preview", (22, 12), 6)]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert events.Tags()["images"] == ["preview"]


def test_progress_goes_on_after_resuming(tmp_path):
    fit(tmp_path, Preview(every_n_steps=2, num_images=2), Checkpoint(every_n_steps=4), max_steps=4)
    again = Preview(every_n_steps=2, num_images=2, at_start=True)
    fit(tmp_path, again, max_steps=6, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert pictures(tmp_path) == ["progress.png"] + [f"step_000000{i}.png" for i in (2, 4, 6)]
    assert Image.open(tmp_path / "previews/progress.png").size[1] == 3 * 10 + 2


def test_progress_is_limited_to_sixteen_rows(tmp_path):
    fit(tmp_path, Preview(every_n_steps=1, num_images=1), max_steps=20)
    assert Image.open(tmp_path / "previews/progress.png").size[1] == 16 * 10 + 2


class Prompted(TinyModule):
    """Makes grey images, and keeps the prompts."""

    def __init__(self):
        super().__init__(num_classes=None)
        self.conditioner = Prompts()
        self.asked = []

    def sample(self, condition=None, *args, **options):
        self.asked.append(condition)
        return torch.zeros(len(condition), 3, 8, 8)


class Captioned(TinyData):
    captions = True

    def prompts(self, count):
        return [f"shape {i}" for i in range(count)]


@pytest.mark.parametrize(
    ("prompts", "asked"),
    [(None, ["shape 0", "shape 1", "shape 2"]), (["a", "b"], ["a", "b", "a"])],
)
def test_prompts_stand_under_the_pictures(tmp_path, prompts, asked):
    module = Prompted()
    tiny_trainer(tmp_path, [Preview(num_images=3, columns=2, prompts=prompts)], max_steps=1).fit(module, Captioned())
    assert module.asked == [asked]
    picture = np.asarray(Image.open(tmp_path / "previews/step_0000001.png"))
    assert picture.shape[1] == 2 * 130 + 2  # pictures of 8 pixels are enlarged until words fit below them
    below = picture[2 + 128 : 2 + 128 + 15, 2:130]
    assert 0 < (below < 128).any(-1).sum() < below[..., 0].size / 2
    assert np.asarray(Image.open(tmp_path / "previews/progress.png"))[2:130, 80:208].max() == 128


def test_prompts_that_nobody_understands_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"preview.prompts are .*the network does not know them"):
        fit(tmp_path, Preview(prompts=["a"]))
    with pytest.raises(ValueError, match="no data module has captions that could serve"):
        tiny_trainer(tmp_path, [Preview()], max_steps=1).fit(Prompted(), TinyData())
