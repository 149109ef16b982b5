"""Runs `pixelgen.fit` in processes of their own, that can be killed.

They are forked from a server that has imported everything and done nothing else: starting one takes little time, and no
threads or locks of the tests are in it.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from pixelgen.fit import main

HERE = Path(__file__).parent
OVERLAYS = HERE.parent / "configs" / "overlay"
SEVERAL = {"ddp": ["--config", str(OVERLAYS / "ddp.yaml")], "fsdp": ["--config", str(OVERLAYS / "fsdp.yaml")]}

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pixelgen.fit", "torch.utils.tensorboard"])


def start(arguments, log, rank=0, world_size=1, port=0, prepare=None, main=main):
    """Start one process of a run, or of another command, as `torchrun` would, and call `prepare` in it first."""
    process = SERVER.Process(target=_run, args=([*arguments], log, rank, world_size, port, prepare, main))
    process.start()
    return process


def _run(arguments, log, rank, world_size, port, prepare, main):
    sys.stdout = sys.stderr = Path(log).open("a", buffering=1)  # noqa: SIM115, open as long as the process lives
    for handler in logging.getLogger("lightning").handlers + logging.getLogger("lightning.pytorch").handlers:
        handler.setStream(sys.stderr)
    sys.path.insert(0, str(HERE))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may ignore them
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    multiprocessing.set_start_method("fork", force=True)  # workers see by their parent when a run is killed
    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    if world_size > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test"}
        os.environ.update({key: str(value) for key, value in (ranks | address).items()})
        rank_zero_only.rank = rank
    main(arguments)


def status(process, timeout=120):
    """Wait for the exit status of a process; minus the signal if one has killed it."""
    process.join(timeout)
    assert process.exitcode is not None, f"not finished after {timeout} s"
    return process.exitcode


def finish(processes, log, timeout=120):
    """Wait for processes to end; all of them must end well."""
    end, waiting = time.monotonic() + timeout, [*processes]
    try:
        while waiting:
            assert all(process.exitcode in (None, 0) for process in waiting), Path(log).read_text()[-3000:]
            waiting = [process for process in waiting if process.exitcode is None]
            assert time.monotonic() < end, f"not finished after {timeout} s: {Path(log).read_text()[-3000:]}"
            time.sleep(0.02)
    finally:
        for process in waiting:
            process.kill()


def free_port():
    """A port that two processes can meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fit(strategy, folder, *more, wait=True, prepare=None):
    """Train tests/parallel.yaml in one process, or with `ddp` or `fsdp` in two, with the same global batch of 8."""
    arguments = ["--config", str(HERE / "parallel.yaml"), *SEVERAL.get(strategy, []), "--run", str(folder), *more]
    log = folder.with_suffix(".log")
    if strategy == "one":
        processes = [start([*arguments, "--data.batch_size", "8"], log, prepare=prepare)]
    else:
        port = free_port()
        two = [*arguments, "--data.batch_size", "4", "--trainer.devices", "2"]
        processes = [start(two, log, rank, 2, port, prepare) for rank in (0, 1)]
    if wait:
        finish(processes, log)
    return processes
