"""The worst moments to be killed at; each function patches a process so that it kills itself there."""

import os
import resource
import signal
from itertools import count
from random import Random

from lightning import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from PIL import Image

from pixelgen import PixelGen
from pixelgen.callbacks import EMA, checkpoint, checkpoint_io


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def half_written():
    original = Trainer.save_checkpoint

    def save(self, path, *args, **options):
        original(self, path, *args, **options)
        if self.global_step == 6:
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    Trainer.save_checkpoint = save


def between_its_two_names():
    original = checkpoint_io.publish
    checkpoint_io.publish = lambda file, to: die() if "06.ckpt" in to.name else original(file, to)


def before_old_ones_are_dropped():
    original = checkpoint.Checkpoint._drop_old

    def drop(self, trainer):
        return die() if trainer.global_step == 6 else original(self, trainer)

    checkpoint.Checkpoint._drop_old = drop


def in_validation_with_the_average_in_place():
    original = PixelGen.validation_step

    def validate(self, batch, batch_idx):
        ema = next(callback for callback in self.trainer.callbacks if isinstance(callback, EMA))
        if self.global_step == 10 and ema._active == "0.5":
            die()
        return original(self, batch, batch_idx)

    PixelGen.validation_step = validate


def in_a_random_write(seed):
    """In one of the first checkpoints: half of it written, or at one of the moments between its names."""
    draw, number = Random(seed), count(1)
    place, last = draw.randrange(4), draw.randint(1, 4)
    owner, name = [
        (Trainer, "save_checkpoint"),
        (checkpoint_io, "publish"),
        (checkpoint_io, "link"),
        (checkpoint.Checkpoint, "_drop_old"),
    ][place]
    original = getattr(owner, name)

    def then_die(*args, **options):
        if next(number) < last:
            return original(*args, **options)
        if place == 0:
            original(*args, **options)
            os.truncate(args[1], int(draw.random() * os.path.getsize(args[1])))
        return die()

    setattr(owner, name, then_die)


def while_the_config_is_written():
    os.replace = die


def asked_to_stop_before_the_first_step():
    original = _FitLoop.setup_data

    def setup_data(self):
        os.kill(os.getpid(), signal.SIGUSR1)
        original(self)

    _FitLoop.setup_data = setup_data


def on_a_full_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def in_the_fiftieth_image():
    save, saved = Image.Image.save, count(1)

    def half(self, file, *args, **options):
        save(self, file, *args, **options)
        if next(saved) == 50:
            os.truncate(file, os.path.getsize(file) // 2)
            die()

    Image.Image.save = half
