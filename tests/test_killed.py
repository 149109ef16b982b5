"""Runs that are killed, asked to stop, or run out of disk lose nothing but the steps since the last checkpoint."""

import os
import random
import signal
import time
from collections import Counter
from functools import partial
from itertools import groupby
from operator import itemgetter

import pytest

import moments
from distributed.test_fsdp import contents
from pixelgen.runs.run import Run
from processes import HERE, SEVERAL, finish, fit, free_port, start, status

STOPS = int(os.environ.get("STOPS", "100"))

RUN = [
    *("--config", str(HERE / "parallel.yaml"), "--data.batch_size", "8", "--ckpt_path", "last"),
    *("--trainer.accumulate_grad_batches", "1", "--callbacks.checkpoint.every_n_steps", "3"),
    *("--trainer.limit_val_batches", "2", "--trainer.val_check_interval", "5", "--callbacks.preview", "null"),
    *("--callbacks.fid.every_n_steps", "20"),
]


SHARDS = ["--trainer.strategy.save_distributed_checkpoint", "true"]


def begin(folder, steps, *more, prepare=None):
    arguments = [*RUN, "--run", str(folder), "--trainer.max_steps", str(steps), *more]
    return start(arguments, folder.with_suffix(".log"), prepare=prepare)


def complete(folder, steps):
    finish([begin(folder, steps)], folder.with_suffix(".log"))


def step_of(folder):
    last = folder / "checkpoints" / "last.ckpt"
    return Run(last).step if last.exists() else 0


def wait_for_step(folder, step, process, seconds=120):
    end = time.monotonic() + seconds
    while step_of(folder) < step:
        assert time.monotonic() < end
        assert process.exitcode is None, folder.with_suffix(".log").read_text()[-3000:]
        time.sleep(0.01)


def assert_bit_equal(folder, other):
    (step, found), (other_step, others) = contents(folder), contents(other)
    assert step == other_step
    assert found.keys() == others.keys()
    assert [key for key in found if not found[key].equal(others[key])] == []


def begin_several(folder, steps, processes, *more, prepare=None):
    """The same run in one process, or in two with half of the batch each."""
    if processes == 1:
        return [begin(folder, steps, *more, prepare=prepare)]
    half = [*SEVERAL["ddp"], "--data.batch_size", "4", "--trainer.devices", "2", "--run", str(folder)]
    arguments, port = [*RUN, *half, "--trainer.max_steps", str(steps), *more], free_port()
    return [start(arguments, folder.with_suffix(".log"), rank, 2, port, prepare) for rank in (0, 1)]


def stop_somehow(folder, draw, processes):
    """Start the run, or resume it, and end it: a third of the times in a write, else by a signal at any moment."""
    more = ["--data.num_workers", str(draw.choice((0, 0, 2)))]
    in_a_write = draw.random() < 1 / 3
    prepare = partial(moments.in_a_random_write, draw.random()) if in_a_write else None
    running, patience = begin_several(folder, 100_000, processes, *more, prepare=prepare), 30
    if not in_a_write:
        time.sleep(draw.uniform(0.5, 10))
        number = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGTERM))
        for process in running:
            os.kill(process.pid, number)
    for process in running:
        process.join(patience)  # in vain where the other one has died
        process.kill()
        process.join()
    return "write" if in_a_write else number.name


@pytest.mark.slow
def test_a_hundred_stops_lose_nothing(tmp_path):
    """The same command again and again; what is there afterwards can be read, and is further than before.

    In the end all is bit-equal to a run that stopped only where the number of processes changed.
    """
    folder, draw, processes, ways = tmp_path / "run", random.Random(0), 1, Counter()
    plan = [(1, 0)]  # numbers of processes, and the steps that they reached
    for _ in range(STOPS):
        processes = 3 - processes if draw.random() < 0.1 else processes
        way = stop_somehow(folder, draw, processes)
        ways[way] += 1
        plan.append((processes, step_of(folder)))  # reads the whole file
        print(way, *plan[-1], flush=True)
    steps = [step for _, step in plan]
    print(f"{dict(ways)}, {steps[-1]} steps, {sum(p == 2 for p, _ in plan)} times two processes")
    assert steps == sorted(steps)
    assert len(set(steps)) > STOPS / 3
    finish(begin_several(folder, steps[-1] + 5, 1), folder.with_suffix(".log"))
    whole = tmp_path / "whole"
    for processes, group in groupby([*plan, (1, steps[-1] + 5)], key=itemgetter(0)):
        step = max(step for _, step in group)
        if step > step_of(whole):
            finish(begin_several(whole, step, processes), whole.with_suffix(".log"), timeout=600)
    assert_bit_equal(folder, whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "whole"
    complete(folder, 12)
    return folder


@pytest.mark.parametrize(
    ("moment", "saved"),
    [
        (moments.half_written, 3),
        (moments.in_validation_with_the_average_in_place, 9),
        pytest.param(moments.between_its_two_names, 6, marks=pytest.mark.slow),
        pytest.param(moments.before_old_ones_are_dropped, 6, marks=pytest.mark.slow),
        pytest.param(moments.while_the_config_is_written, 0, marks=pytest.mark.slow),
    ],
)
def test_killed_at_the_worst_moments(whole, tmp_path, moment, saved):
    folder = tmp_path / "run"
    process = begin(folder, 12, prepare=moment)
    assert status(process) == -signal.SIGKILL, folder.with_suffix(".log").read_text()[-3000:]
    assert step_of(folder) == saved
    complete(folder, 12)
    assert_bit_equal(folder, whole)
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["last.ckpt", "step_0000009.ckpt", "step_0000012.ckpt"]


@pytest.mark.parametrize(
    ("name", "num_workers"),
    [("SIGINT", 2), *(pytest.param(name, 2, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGHUP", "SIGUSR1"))],
)
def test_asked_to_stop_it_saves_at_once(tmp_path, name, num_workers):
    """The signal goes to every process of the job, data workers included, as a cluster sends it."""
    folder = tmp_path / "run"
    process = begin(folder, 100_000, "--data.num_workers", str(num_workers), prepare=os.setpgrp)
    wait_for_step(folder, 6, process)
    os.killpg(process.pid, getattr(signal, name))
    assert status(process) == (130 if name == "SIGINT" else 0)
    stopped = step_of(folder)
    assert f"{name}: saved step {stopped} and stopped" in folder.with_suffix(".log").read_text()
    complete(folder, stopped + 5)
    complete(tmp_path / "whole", stopped + 5)
    assert_bit_equal(folder, tmp_path / "whole")


def test_asked_to_stop_before_the_first_step(tmp_path):
    folder = tmp_path / "run"
    process = begin(folder, 100_000, prepare=moments.asked_to_stop_before_the_first_step)
    finish([process], folder.with_suffix(".log"))
    assert step_of(folder) == 1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_stop_together(tmp_path, strategy):
    """Only one of them is asked."""
    folder = tmp_path / "run"
    endless = ["--trainer.max_steps", "100000", "--callbacks.checkpoint.every_n_steps", "2"]
    processes = fit(strategy, folder, *endless, wait=False)
    wait_for_step(folder, 4, processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)
    finish(processes, folder.with_suffix(".log"))
    assert "stopped; the same command" in folder.with_suffix(".log").read_text()


def test_on_a_full_disk_the_former_checkpoint_stays(tmp_path):
    folder = tmp_path / "run"
    complete(folder, 3)
    assert status(begin(folder, 9, prepare=moments.on_a_full_disk)) == 2
    message = "step_0000006.ckpt ([Errno 27] File too large): free some space or change the run's folder"
    assert message in folder.with_suffix(".log").read_text()
    assert step_of(folder) == 3
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["last.ckpt", "step_0000003.ckpt"]
    complete(folder, 9)
    assert step_of(folder) == 9


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "shards"), [("ddp", []), ("fsdp", SHARDS)])
def test_on_a_full_disk_every_process_stops(tmp_path, strategy, shards):
    folder = tmp_path / "run"
    processes = fit(strategy, folder, *shards, wait=False, prepare=moments.on_a_full_disk)
    assert [status(process) for process in processes] == [2, 2]
    assert folder.with_suffix(".log").read_text().count("error: could not write the checkpoint") == 2
    assert [path.name for path in (folder / "checkpoints").iterdir()] == []
