"""Runs that are killed, asked to stop, or run out of disk lose nothing but the steps since the last checkpoint."""

import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
from lightning import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop as FitLoop

from pixelgen import PixelGen
from pixelgen.callbacks import EMA, checkpoint
from pixelgen.runs import read_checkpoint
from processes import HERE, finish, fit, start
from test_parallel import contents

RUN = [
    *("--config", str(HERE / "parallel.yaml"), "--data.batch_size", "8", "--ckpt_path", "last"),
    *("--trainer.accumulate_grad_batches", "1", "--callbacks.checkpoint.every_n_steps", "3"),
    *("--trainer.limit_val_batches", "2", "--trainer.val_check_interval", "5", "--callbacks.preview", "null"),
    *("--callbacks.fid.every_n_steps", "20"),
]


def begin(folder, steps, log):
    return start([*RUN, "--run", str(folder), "--trainer.max_steps", str(steps)], log)


def step_of(folder):
    last = folder / "checkpoints" / "last.ckpt"
    return read_checkpoint(last)["global_step"] if last.exists() else 0


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_bit_equal(folder, other):
    (step, found), (other_step, others) = contents(folder), contents(other)
    assert step == other_step
    assert found.keys() == others.keys()
    assert [key for key in found if not found[key].equal(others[key])] == []


def killed_again_and_again(folder, times, steps, moments):
    """Start the same command, kill it, and so on; afterwards let it finish. Returns where it was each time."""
    log, reached = folder.with_suffix(".log"), [0]
    for _ in range(times):
        process = begin(folder, steps, log)
        time.sleep(moments())
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL, log.read_text()[-3000:]
        reached.append(step_of(folder))  # reads the whole file: it is never a half-written one
        assert reached[-1] >= reached[-2]
    finish([begin(folder, steps, log)], log)
    return reached


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost(tmp_path):
    steps, moments = 600, random.Random(0)
    finish([begin(tmp_path / "whole", steps, tmp_path / "whole.log")], tmp_path / "whole.log")
    reached = killed_again_and_again(tmp_path / "killed", 25, steps, lambda: moments.uniform(0.5, 3))
    assert len(set(reached)) > 10
    assert_bit_equal(tmp_path / "killed", tmp_path / "whole")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(patch):
    original = Trainer.save_checkpoint

    def save(self, path, *args, **options):
        original(self, path, *args, **options)
        if self.global_step == 6:
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    patch(Trainer, "save_checkpoint", save)


def between_its_two_names(patch):
    original = checkpoint._rename
    patch(checkpoint, "_rename", lambda file, to: die() if "06.ckpt" in to.name else original(file, to))


def before_old_ones_are_dropped(patch):
    original = checkpoint.Checkpoint._drop_old
    dead = lambda self, trainer: die() if trainer.global_step == 6 else original(self, trainer)  # noqa: E731
    patch(checkpoint.Checkpoint, "_drop_old", dead)


def in_validation_with_the_average_in_place(patch):
    original = PixelGen.validation_step

    def validate(self, batch, batch_idx):
        ema = next(callback for callback in self.trainer.callbacks if isinstance(callback, EMA))
        if self.global_step == 10 and ema._active == "0.5":
            die()
        return original(self, batch, batch_idx)

    patch(PixelGen, "validation_step", validate)


def while_the_config_is_written(patch):
    patch(Path, "replace", lambda self, to: die())


MOMENTS = {  # and the step that is saved by then
    half_written: 3,
    between_its_two_names: 6,
    before_old_ones_are_dropped: 6,
    in_validation_with_the_average_in_place: 9,
    while_the_config_is_written: 0,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "whole"
    finish([begin(folder, 12, folder.with_suffix(".log"))], folder.with_suffix(".log"))
    return folder


SLOW = (between_its_two_names, before_old_ones_are_dropped)


@pytest.mark.parametrize("moment", [pytest.param(m, marks=pytest.mark.slow) if m in SLOW else m for m in MOMENTS])
def test_killed_at_the_worst_moments(whole, tmp_path, moment):
    folder, log = tmp_path / "run", tmp_path / "run.log"
    arguments = [*RUN, "--run", str(folder), "--trainer.max_steps", "12"]
    process = start(arguments, log, prepare=lambda: moment(setattr))
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL, log.read_text()[-3000:]
    assert step_of(folder) == MOMENTS[moment]
    finish([begin(folder, 12, log)], log)
    assert_bit_equal(folder, whole)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())[1:] == [
        "step_0000009.ckpt",
        "step_0000012.ckpt",
    ]


@pytest.mark.parametrize(("name", "num_workers"), [("SIGTERM", 2), pytest.param("SIGUSR1", 0, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_at_once(tmp_path, name, num_workers):
    """The signal goes to every process of the job, data workers included, as a cluster sends it."""
    log = tmp_path / "run.log"
    more = ["--run", str(tmp_path / "run"), "--trainer.max_steps", "100000", "--data.num_workers", str(num_workers)]
    process = start([*RUN, *more], log, prepare=os.setpgrp)
    wait_for(lambda: step_of(tmp_path / "run") >= 6)
    os.killpg(process, getattr(signal, name))
    finish([process], log)  # status 0
    stopped = step_of(tmp_path / "run")
    assert f"{name}: saved step {stopped} and stopped" in log.read_text()
    finish([begin(tmp_path / "run", stopped + 5, log)], log)
    finish([begin(tmp_path / "whole", stopped + 5, log)], log)
    assert_bit_equal(tmp_path / "run", tmp_path / "whole")


def test_asked_to_stop_before_the_first_step(tmp_path):
    log = tmp_path / "run.log"
    original = FitLoop.setup_data

    def setup_data(self):
        os.kill(os.getpid(), signal.SIGUSR1)
        original(self)

    arguments = [*RUN, "--run", str(tmp_path / "run"), "--trainer.max_steps", "100000"]
    finish([start(arguments, log, prepare=lambda: setattr(FitLoop, "setup_data", setup_data))], log)
    assert step_of(tmp_path / "run") == 1


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_stop_together(tmp_path, strategy):
    """Only one of them is asked."""
    folder = tmp_path / "run"
    endless = ["--trainer.max_steps", "100000", "--callbacks.checkpoint.every_n_steps", "2"]
    processes = fit(strategy, folder, *endless, wait=False)
    wait_for(lambda: step_of(folder) >= 4)
    os.kill(processes[1], signal.SIGTERM)
    log = folder.with_suffix(".log")
    finish(processes, log)
    assert step_of(folder) >= 4
    assert "stopped; the same command" in log.read_text()


def test_on_a_full_disk_the_former_checkpoint_stays(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "run.log"
    finish([begin(folder, 3, log)], log)
    more = [*RUN, "--run", str(folder), "--trainer.max_steps", "9"]
    process = start(more, log, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    assert (
        "step_0000006.ckpt ([Errno 27] File too large): free some space or change the run's folder" in log.read_text()
    )
    assert step_of(folder) == 3
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["last.ckpt", "step_0000003.ckpt"]
    finish([start(more, log)], log)
    assert step_of(folder) == 9
