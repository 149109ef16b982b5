"""Downloads arrive whole from a server that stalls, hangs up, knows no ranges or is busy, and fail where they must."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest

from pixelgen.data import remote
from pixelgen.data.remote import PASSING, Download
from pixelgen.data.tars import Skipped, read_shard
from shard_files import write_tar

CONTENT = Random(0).randbytes(100_000)


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `faults`; when they are used up, without a fault."""

    def __init__(self, content=CONTENT, faults=(), ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.faults, self.ranges = content, list(faults), ranges
        self.headers = {"ETag": "1"}
        self.requests, self.paths, self.credentials, self.stop = [], [], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/a.tar"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        fault = server.faults.pop(0) if server.faults else None
        server.requests.append(self.headers["Range"])
        server.paths.append(self.path)
        server.credentials.append(self.headers["Authorization"])
        if isinstance(fault, int):
            self.send_error(fault)
            return
        begin = int(self.headers["Range"][6:-1]) if self.headers["Range"] and server.ranges else 0
        part = fault(server, begin) if callable(fault) else None
        begin, end = part or (begin, len(server.content))
        if isinstance(fault, str) and fault.startswith("http"):
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
            return
        if begin == len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{begin}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        for name, value in server.headers.items():
            self.send_header(name, value)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(server.content)}")
        if fault == "chunked":  # of unknown length, and cut before the mark of its end
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(f"{len(server.content):x}\r\n".encode() + server.content + b"\r\n")
            return
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        short = fault in ("stall", "hang up")
        self.wfile.write(server.content[begin : min(end, begin + 30_000)] if short else server.content[begin:end])
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


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([], [None]),
        (["hang up", "hang up"], [None, "bytes=30000-", "bytes=60000-"]),
        (["stall"], [None, "bytes=30000-"]),
        (["hang up", 503, "hang up"], [None, "bytes=30000-", "bytes=30000-", "bytes=60000-"]),
        (["chunked"], [None, "bytes=100000-"]),
        *(([code], [None, None]) for code in sorted(PASSING)),
    ],
)
def test_downloads_go_on_where_they_broke(serve, faults, requests):
    server = serve(faults=faults)
    assert fetch(server) == CONTENT
    assert server.requests == requests


@pytest.mark.parametrize("fault", ["hang up", "stall"])
def test_without_ranges_the_beginning_is_passed_over(serve, fault):
    server = serve(faults=[fault], ranges=False)
    assert fetch(server) == CONTENT
    assert server.requests == [None, "bytes=30000-"]


def test_a_server_may_send_less_or_more_than_was_asked_for(serve):
    def capped(server, begin):
        return begin, begin + 20_000

    def early(server, begin):
        return begin - 1_000, len(server.content)

    server = serve(faults=["hang up", capped, early])
    assert fetch(server) == CONTENT
    assert server.requests == [None, "bytes=30000-", "bytes=50000-"]


def test_progress_renews_the_attempts(serve):
    content = Random(1).randbytes(30_000 * (Download.attempts + 2))
    server = serve(content, faults=["hang up"] * (Download.attempts + 1))
    assert fetch(server) == content
    assert server.pauses == [1.0] * (Download.attempts + 1)


def test_a_server_that_stays_silent_is_given_up(serve):
    server = serve(faults=["hang up"] + [503] * 20)
    download = Download(server.url)
    with pytest.raises(OSError, match=rf"503.*; tried {Download.attempts} times"):
        download.readall()
    assert len(server.requests) == 1 + Download.attempts - 1
    assert server.pauses == [2.0**i for i in range(Download.attempts - 1)]
    with pytest.raises(OSError, match="503"):
        download.read(1)
    assert len(server.pauses) == Download.attempts - 1
    download.close()
    with pytest.raises(ValueError, match="closed"):
        download.read(1)


def test_what_cannot_succeed_is_tried_once(serve):
    server = serve(faults=[404])
    with pytest.raises(OSError, match="404"):
        Download(server.url)
    assert len(server.requests) == 1
    for url in ("http://127.0.0.1:1/a.tar", "http://host.invalid/a.tar", "http://127.0.0.1:x/a.tar"):
        with pytest.raises(OSError, match=r"refused|known|nonnumeric|resolution|failure|associated"):
            Download(url)
    assert server.pauses == []


@pytest.mark.parametrize("headers", [{"ETag": "2"}, {"Last-Modified": "yesterday"}])
def test_a_file_that_changed_is_not_mixed_with_what_was_read(serve, headers):
    server = serve(faults=["hang up", lambda server, _: setattr(server, "headers", headers)])
    with pytest.raises(OSError, match="changed after 30000 bytes were read"):
        fetch(server)
    assert len(server.requests) == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_nor_is_one_without_a_version_that_grew(serve, ranges):
    server = serve(faults=["hang up", lambda server, _: setattr(server, "content", CONTENT + b"more")], ranges=ranges)
    server.headers = {}
    with pytest.raises(OSError, match="changed after 30000 bytes were read"):
        fetch(server)


def test_credentials_of_the_url_are_for_its_host_alone(serve):
    other = serve()
    server = serve(faults=[f"http://localhost:{other.server_port}/b.tar", None, None])
    assert fetch(server, server.url.replace("//", "//me:p%40ss@")) == CONTENT
    assert (server.credentials, other.credentials) == (["Basic bWU6cEBzcw=="], [None])
    fetch(server, server.url.replace("//", "//token@"))
    assert server.credentials[1] == "Basic dG9rZW46"


def test_names_with_spaces_and_umlauts_are_quoted(serve):
    server = serve()
    assert fetch(server, server.url.replace("a.tar", "größe 1%202.tar?x=a b&y=/")) == CONTENT
    assert server.paths == ["/gr%C3%B6%C3%9Fe%201%202.tar?x=a%20b&y=/"]


def test_a_shard_is_whole_after_a_stall_and_broken_where_the_server_gives_up(serve, tmp_path):
    shard = write_tar(tmp_path / "a.tar", [(str(i), {"txt": "t" * 700}) for i in range(40)]).read_bytes()
    skipped = Skipped(quiet=True)
    assert [sample.key for sample in read_shard(serve(shard, ["stall"]).url, skipped)] == [str(i) for i in range(40)]
    assert not skipped.counts
    broken = list(read_shard(serve(shard, ["hang up"] + [503] * 20).url, skipped))
    assert 0 < len(broken) < 40
    assert dict(skipped.counts) == {"broken shard": 1}
