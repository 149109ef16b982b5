"""What one of two processes does that leaves the others early; run by tests/distributed/test_processes.py."""

import os

from torch import distributed

from pixelgen.distributed.processes import agree, gather


def leave_an_outer_agreement(arguments):
    """The first process fails before the inner one."""
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo")
    try:
        with agree():
            if rank == 0:
                raise ValueError("alone")
            with agree():
                pass
    except ValueError as error:
        print(f"process {rank}: {error}")
    assert gather([rank]) == [0, 1]  # they are in step again
    distributed.destroy_process_group()
