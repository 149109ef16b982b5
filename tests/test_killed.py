"""Runs that are killed, asked to stop, or run out of disk lose nothing but the steps since the last checkpoint."""

import os
import random
import signal
import time

import pytest

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


def test_killed_twice_nothing_is_lost(tmp_path):
    finish([begin(tmp_path / "whole", 40, tmp_path / "whole.log")], tmp_path / "whole.log")
    log = tmp_path / "killed.log"
    for step in (3, 21):
        process = begin(tmp_path / "killed", 40, log)
        wait_for(lambda step=step: step_of(tmp_path / "killed") >= step)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    finish([begin(tmp_path / "killed", 40, log)], log)
    assert_bit_equal(tmp_path / "killed", tmp_path / "whole")
    assert {path.name for path in (tmp_path / "killed").glob("config*")} == {"config.yaml"}
    assert not [*(tmp_path / "killed" / "checkpoints").glob(".*")]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_asked_to_stop_it_saves_at_once(tmp_path, name):
    log = tmp_path / "run.log"
    process = begin(tmp_path / "run", 100_000, log)
    wait_for(lambda: step_of(tmp_path / "run") >= 6)
    os.kill(process, getattr(signal, name))
    finish([process], log)  # status 0
    stopped = step_of(tmp_path / "run")
    assert f"{name}: saved step {stopped} and stopped" in log.read_text()
    finish([begin(tmp_path / "run", stopped + 5, log)], log)
    finish([begin(tmp_path / "whole", stopped + 5, log)], log)
    assert_bit_equal(tmp_path / "run", tmp_path / "whole")


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
    process = start(more, log, file_size=100_000)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    assert (
        "step_0000006.ckpt ([Errno 27] File too large): free some space or change the run's folder" in log.read_text()
    )
    assert step_of(folder) == 3
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["last.ckpt", "step_0000003.ckpt"]
    finish([start(more, log)], log)
    assert step_of(folder) == 9
