import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from PIL import Image

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.ema import EMA
from pixelgen.callbacks.preview import Preview
from pixelgen.flow import to_uint8
from tiny_run import TinyData, TinyModule, tiny_trainer


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
            self.denoiser.classes.eval()

        def sample(self, *args, **kwargs):
            assert not self.denoiser.training
            return super().sample(*args, **kwargs)

        def on_train_batch_end(self, *args):
            assert self.denoiser.training
            assert not self.denoiser.classes.training

    fit(tmp_path, Preview(every_n_steps=1, num_images=1), module=Modes())


@pytest.mark.parametrize(
    ("num_classes", "labels", "expected"),
    [
        (3, None, [0, 1, 2, 0]),
        (8, None, [0, 2, 4, 6]),
        (None, None, None),
        (3, [2, 1], [2, 1, 2, 1]),
    ],
)
def test_labels(num_classes, labels, expected):
    assert Preview(num_images=4, labels=labels)._condition(num_classes) == expected


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
