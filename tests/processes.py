"""Runs `pixelgen.fit` in forked processes: real ones, that can be killed, without importing everything anew."""

import logging
import os
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from pixelgen.fit import main

HERE = Path(__file__).parent
OVERLAYS = HERE.parent / "configs" / "overlay"
SEVERAL = {"ddp": ["--config", str(OVERLAYS / "ddp.yaml")], "fsdp": ["--config", str(OVERLAYS / "fsdp.yaml")]}


def start(arguments, log, rank=0, world_size=1, port=0, prepare=None):
    """Fork one process of a run, as `torchrun` would start it, and call `prepare` in it; returns its number."""
    if process := os.fork():
        return process
    status = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout = sys.stderr = os.fdopen(stream, "w", buffering=1)
        for handler in logging.getLogger("lightning").handlers + logging.getLogger("lightning.pytorch").handlers:
            handler.setStream(sys.stderr)
        if prepare is not None:
            prepare()
        torch.set_num_threads(1)  # threads of the parent do not survive a fork
        sys.path.insert(0, str(HERE))
        if world_size > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test"}
            os.environ.update({key: str(value) for key, value in (ranks | address).items()})
            rank_zero_only.rank = rank
        main([*arguments])
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(processes, log, timeout=120):
    """Wait for processes to end; all of them must end well."""
    end, waiting = time.monotonic() + timeout, set(processes)
    while waiting:
        for process in [*waiting]:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                waiting.remove(process)
                assert os.waitstatus_to_exitcode(status) == 0, Path(log).read_text()[-3000:]
        assert time.monotonic() < end, f"not finished after {timeout} s: {Path(log).read_text()[-3000:]}"
        time.sleep(0.02)


def fit(strategy, folder, *more, wait=True):
    """Train tests/parallel.yaml in one process, or with `ddp` or `fsdp` in two, with the same global batch of 8."""
    arguments = ["--config", str(HERE / "parallel.yaml"), *SEVERAL.get(strategy, []), "--run", str(folder), *more]
    log = folder.with_suffix(".log")
    if strategy == "one":
        processes = [start([*arguments, "--data.batch_size", "8"], log)]
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        two = [*arguments, "--data.batch_size", "4", "--trainer.devices", "2"]
        processes = [start(two, log, rank, 2, port) for rank in (0, 1)]
    if wait:
        finish(processes, log)
    return processes
