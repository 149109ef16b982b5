"""A run's folder belongs to one job at a time, and its config says what has changed, without passwords or trust."""

import fcntl
import multiprocessing
import os
import time
from types import SimpleNamespace

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace

from pixelgen.cli.arguments import follow
from pixelgen.runs.folder import LOCK, SaveConfig, _changes, lock_folder

URL = "http://alice:S3CRET@host/{00..01}.tar?sig=S3CRET"


def test_a_saved_config_has_no_credentials_and_no_trust(tmp_path):
    parser = ArgumentParser()
    for key in ("--run", "--ckpt_path", "--init_from"):
        parser.add_argument(key, type=str | None)
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--shards", type=list[str] | str)
    parser.add_argument("--more", type=dict)
    config = parser.parse_args(["--trust", f"--shards=[{URL!r}]", "--more", f"{{a: [{{b: {URL!r}}}]}}"])
    with pytest.warns(UserWarning, match="without their credentials: give them again to resume"):
        SaveConfig(parser, config).save_config(SimpleNamespace(default_root_dir=tmp_path), None, "fit")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    public = "http://host/{00..01}.tar"
    none = dict.fromkeys(("run", "ckpt_path", "init_from"))
    assert saved == {**none, "shards": [public], "more": {"a": [{"b": public}]}}
    assert config.shards == [URL]  # what is read with


CONTEXT = multiprocessing.get_context("fork")


def refused(folder):
    with pytest.raises(ValueError, match=r"is training in .*: wait for its end, or give this run its own folder"):
        lock_folder(folder, new=False)
    return True


def test_one_job_has_a_folder_until_it_closes_its_lock(tmp_path):
    lock = lock_folder(tmp_path / "run", new=True)
    assert (tmp_path / "run" / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert refused(tmp_path / "run")
    lock.close()
    lock_folder(tmp_path / "run", new=False).close()


def test_a_lock_follows_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(victim)
    with pytest.raises(ValueError, match="could not make"):
        lock_folder(tmp_path / "run", new=False)
    assert victim.read_text() == "kept"


def _hold(folder, connection):
    lock = lock_folder(folder, new=False)
    worker = CONTEXT.Process(target=time.sleep, args=(60,))  # forked, as the workers of a loader are
    worker.start()
    connection.send(worker.pid)
    time.sleep(60)
    lock.close()


def test_a_lock_dies_with_its_process_though_its_workers_live(tmp_path):
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_hold, args=(tmp_path, there))
    process.start()
    worker = here.recv()
    assert refused(tmp_path)
    process.kill()
    process.join()
    os.kill(worker, 0)  # is there
    lock_folder(tmp_path, new=False).close()
    os.kill(worker, 9)


def test_a_new_run_takes_no_folder_that_another_has_used_meanwhile(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match=r"another run has just taken .*: start again"):
        lock_folder(tmp_path, new=True)


def test_where_there_are_no_locks_nothing_is_locked(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert [lock_folder(tmp_path, new=False).close() for _ in range(2)] == [None, None]


def test_changes_of_a_config_are_named_as_on_the_command_line():
    former = yaml.safe_load("{model: {class_path: A, init_args: {optimizer: {class_path: B, init_args: {lr: 1}}}}}")
    after = yaml.safe_load(
        "{model: {class_path: A, init_args: {optimizer: {class_path: C, init_args: {lr: 2}}}}, x: [1]}"
    )
    assert _changes(former, after) == ["model.optimizer B -> C", "model.optimizer.lr 1 -> 2", "x None -> [1]"]


@pytest.mark.parametrize(
    ("total_iters", "max_steps", "arguments", "expected"),
    [
        (2000, 2060, [], 2060),  # it had ended with training, and still does
        (2000, 1500, [], 1500),
        (1000, 2060, [], 1000),  # it was asked to end elsewhere
        (2000, 2060, ["--model.scheduler.total_iters=2000"], 2000),
        (2000, -1, [], 2000),  # no end is known
    ],
)
def test_what_ends_with_training_ends_with_longer_training(total_iters, max_steps, arguments, expected):
    def config(end):
        scheduler = Namespace(init_args=Namespace(total_iters=total_iters))
        model = Namespace(init_args=Namespace(scheduler=scheduler, seed=0))
        return Namespace(model=model, trainer=Namespace(max_steps=end), seed_everything=0)

    now = config(max_steps)
    follow(now, config(2000).as_dict(), arguments)
    assert now.model.init_args.scheduler.init_args.total_iters == expected
    assert now.model.init_args.seed == 0
