"""What processes tell each other."""

from leaving import leave_an_outer_agreement
from processes import finish, free_port, start


def test_a_process_that_fails_before_an_inner_agreement_stops_no_other(tmp_path):
    log, port = tmp_path / "log", free_port()
    finish([start([], log, rank, 2, port, main=leave_an_outer_agreement) for rank in (0, 1)], log, timeout=60)
    assert sorted(log.read_text().splitlines()) == ["process 0: alone", "process 1: another process has failed: alone"]
