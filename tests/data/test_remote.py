"""Downloads arrive whole from a server that stalls, hangs up, knows no ranges or is busy, and fail where they must."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest

from pixelgen.data import remote
from pixelgen.data.remote import Download
from pixelgen.data.tars import Skipped, read_shard
from shard_files import write_tar

CONTENT = Random(0).randbytes(100_000)


class Server(ThreadingHTTPServer):
    """Sends `content` as `faults`, one for each request, say; when they are used up, without a fault."""

    def __init__(self, content=CONTENT, faults=(), ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.faults, self.ranges = content, list(faults), ranges
        self.version, self.requests, self.stop = "1", [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/a.tar"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        fault = server.faults.pop(0) if server.faults else None
        server.requests.append((self.headers["Range"], self.headers["Authorization"]))
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if fault == "change":
            server.version = "2"
        begin = int(self.headers["Range"][6:-1]) if self.headers["Range"] and server.ranges else 0
        self.send_response(206 if begin else 200)
        self.send_header("ETag", server.version)
        self.send_header("Content-Length", str(len(server.content) - begin))
        self.end_headers()
        short = fault in ("stall", "hang up")
        self.wfile.write(server.content[begin : begin + 30_000] if short else server.content[begin:])
        if fault == "stall":
            self.wfile.flush()
            server.stop.wait(10)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(Download, "timeout", 0.3)
    pauses = []
    monkeypatch.setattr(remote.time, "sleep", pauses.append)
    servers = []

    def start(*args, **kwargs):
        server = Server(*args, **kwargs)
        server.pauses = pauses
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.stop.set()
        server.shutdown()
        server.server_close()


def fetch(server, url=None):
    with io.BufferedReader(Download(url or server.url), 4096) as stream:
        return stream.read()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("faults", [["hang up", "hang up"], ["stall"], ["hang up", 503, "hang up"], [429, 500]])
def test_downloads_go_on_where_they_broke(serve, faults, ranges):
    server = serve(faults=faults, ranges=ranges)
    if not ranges and faults.count("hang up") > 1:
        server.faults.remove("hang up")  # what was sent again is passed over, so a second one would be no progress
    assert fetch(server) == CONTENT
    first = [asked for asked, _ in server.requests]
    assert first[0] is None
    if "hang up" in faults or "stall" in faults:
        assert first[-1] == ("bytes=60000-" if ranges and faults.count("hang up") > 1 else "bytes=30000-")


def test_progress_renews_the_attempts(serve):
    content = Random(1).randbytes(30_000 * (Download.attempts + 2))
    server = serve(content, faults=["hang up"] * (Download.attempts + 1))
    assert fetch(server) == content
    assert server.pauses == [1.0] * (Download.attempts + 1)


def test_a_server_that_stays_silent_is_given_up(serve):
    server = serve(faults=["hang up"] + [503] * 20)
    with pytest.raises(OSError, match=rf"503.*; tried {Download.attempts} times"):
        fetch(server)
    assert len(server.requests) == 1 + Download.attempts - 1
    assert server.pauses == [2.0**i for i in range(Download.attempts - 1)]


def test_what_is_not_there_is_asked_for_once(serve):
    server = serve(faults=[404])
    with pytest.raises(OSError, match="404"):
        Download(server.url)
    assert len(server.requests) == 1


def test_a_file_that_changed_is_not_mixed_with_what_was_read(serve):
    server = serve(faults=["hang up", "change"])
    with pytest.raises(OSError, match="changed after 30000 bytes were read"):
        fetch(server)
    assert len(server.requests) == 2


def test_credentials_of_the_url_are_sent(serve):
    server = serve()
    assert fetch(server, server.url.replace("//", "//me:p%40ss@")) == CONTENT
    assert server.requests == [(None, "Basic bWU6cEBzcw==")]


def test_a_shard_is_whole_after_a_stall_and_broken_where_the_server_gives_up(serve, tmp_path):
    shard = write_tar(tmp_path / "a.tar", [(str(i), {"txt": "t" * 700}) for i in range(40)]).read_bytes()
    skipped = Skipped(quiet=True)
    assert [sample.key for sample in read_shard(serve(shard, ["stall"]).url, skipped)] == [str(i) for i in range(40)]
    assert not skipped.counts
    broken = list(read_shard(serve(shard, ["hang up"] + [503] * 20).url, skipped))
    assert 0 < len(broken) < 40
    assert dict(skipped.counts) == {"broken shard": 1}
