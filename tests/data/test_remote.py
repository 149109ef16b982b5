"""Remote files arrive whole from servers that stall, hang up, know no ranges or are busy, and fail where they must."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest

from pixelgen.data import remote
from pixelgen.data.remote import PASSING, RemoteFile
from pixelgen.data.tars import SkipCounts, read_shard
from shard_files import write_tar

CONTENT = Random(0).randbytes(100_000)
BLOCK = 25_000  # requests hold a block and what was asked for, 5 000 bytes


class Server(ThreadingHTTPServer):
    """Answers each GET with the next of `faults`; when they are used up, without a fault."""

    def __init__(self, content=CONTENT, faults=(), ranges=True, head=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.faults, self.ranges, self.head = content, list(faults), ranges, head
        self.headers = {"ETag": "1"}
        self.requests, self.paths, self.credentials, self.stop = [], [], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/a.tar"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        if self.server.head != 200:
            self.send_error(self.server.head)
            return
        self.send_response(200)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self):
        server = self.server
        fault = server.faults.pop(0) if server.faults else None
        server.requests.append(self.headers["Range"])
        server.paths.append(self.path)
        server.credentials.append(self.headers["Authorization"])
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if callable(fault):
            fault = fault(server)
        if isinstance(fault, str) and fault.startswith("http"):
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "") if server.ranges else None
        begin, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, len(server.content))
        if fault == "less":
            end -= 10_000
        self.send_response(206 if asked else 200)
        for name, value in server.headers.items():
            self.send_header(name, value)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(server.content)}")
        if fault == "chunked":  # of unknown length, and cut before the mark of its end
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(f"{end - begin:x}\r\n".encode() + server.content[begin:end] + b"\r\n")
            return
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        short = fault in ("stall", "hang up")
        self.wfile.write(server.content[begin : begin + 10_000] if short else server.content[begin:end])
        if fault == "stall":
            self.wfile.flush()
            server.stop.wait(10)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(RemoteFile, "timeout", 0.3)
    monkeypatch.setattr(RemoteFile, "block_bytes", BLOCK)
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
    content = b""
    with RemoteFile(url or server.url) as stream:
        while chunk := stream.read(5_000):
            content += chunk
    return content


BLOCKS = ["bytes=0-29999", "bytes=30000-59999", "bytes=60000-89999", "bytes=90000-99999"]


@pytest.mark.parametrize(
    ("faults", "retried"),
    [
        ([], []),
        (["hang up", "hang up"], [0, 0]),
        ([None, "stall"], [1]),
        ([None, "hang up", 503, "hang up"], [1, 1, 1]),
        ([None, None, "chunked"], [2]),
        *(([None, code], [1]) for code in sorted(PASSING)),
    ],
)
def test_reading_resumes_at_the_block_where_it_broke(serve, faults, retried):
    server = serve(faults=faults)
    assert fetch(server) == CONTENT
    assert server.requests == sorted([*BLOCKS, *(BLOCKS[i] for i in retried)], key=BLOCKS.index)
    assert len(server.pauses) == len(retried)


@pytest.mark.parametrize("fault", [None, "hang up", "stall"])
def test_without_ranges_the_beginning_is_passed_over(serve, fault):
    server = serve(faults=[None, fault], ranges=False)
    assert fetch(server) == CONTENT


def test_a_server_that_announces_no_ranges_is_streamed(serve):
    server = serve(ranges=False)
    server.headers["Accept-Ranges"] = "none"
    assert fetch(server) == CONTENT
    assert server.requests == [None]


def test_a_server_may_answer_no_head_requests(serve):
    server = serve(head=501)
    assert fetch(server) == CONTENT
    assert server.requests[-4:] == BLOCKS


def test_a_server_may_send_less_than_was_asked_for(serve):
    assert fetch(serve(faults=["less"])) == CONTENT


def test_progress_renews_the_attempts(serve):
    content = Random(1).randbytes(30_000 * (RemoteFile.attempts + 2))
    server = serve(content, faults=["hang up", None] * (RemoteFile.attempts + 1))
    assert fetch(server) == content
    assert server.pauses == [1.0] * (RemoteFile.attempts + 1)


def test_a_server_that_stays_silent_is_given_up(serve):
    server = serve(faults=[None] + [503] * 20)
    file = RemoteFile(server.url)
    content = b"".join(file.read(5_000) for _ in range(6))
    with pytest.raises(OSError, match=rf"503.*; tried {RemoteFile.attempts} times"):
        file.read(5_000)
    assert content == CONTENT[:30_000]
    assert len(server.requests) == 1 + RemoteFile.attempts
    assert server.pauses == [2.0**i for i in range(RemoteFile.attempts - 1)]
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_what_cannot_succeed_is_tried_once(serve):
    server = serve(faults=[404], head=404)
    with pytest.raises(OSError, match="404"):
        RemoteFile(server.url)
    assert len(server.requests) == 1
    for url in ("http://127.0.0.1:1/a.tar", "http://host.invalid/a.tar", "http://127.0.0.1:x/a.tar"):
        with pytest.raises(OSError, match=r"refused|known|port|failure|associated|onnect|integer"):
            RemoteFile(url)
    assert server.pauses == []


@pytest.mark.parametrize("headers", [{"ETag": "2"}, {"Last-Modified": "yesterday"}])
def test_a_file_that_changed_is_not_mixed_with_what_was_read(serve, headers):
    server = serve(faults=[None, lambda server: setattr(server, "headers", headers) or "hang up"])
    with pytest.raises(OSError, match="changed after 30000 bytes were read"):
        fetch(server)


@pytest.mark.parametrize("ranges", [True, False])
def test_nor_is_one_without_a_version_that_grew(serve, ranges):
    def grow(server):
        server.content = CONTENT + b"more"
        return "hang up"

    server = serve(faults=[None, grow], ranges=ranges)
    server.headers = {}
    with pytest.raises(OSError, match="changed after 30000 bytes were read"):
        fetch(server)


def test_credentials_of_the_url_are_for_its_host_alone(serve):
    other = serve()
    server = serve(faults=[f"http://localhost:{other.server_port}/b.tar"])
    assert fetch(server, server.url.replace("//", "//me:p%40ss@")) == CONTENT
    assert (set(server.credentials), set(other.credentials)) == ({"Basic bWU6cEBzcw=="}, {None})
    fetch(server, server.url.replace("//", "//token@"))
    assert server.credentials[-1] == "Basic dG9rZW46"


@pytest.mark.parametrize("status", [404, 403, 503])
def test_credentials_of_the_url_are_in_no_message(serve, status):
    url = serve(faults=[status] * 20, head=status).url.replace("//", "//me:secret@")
    with pytest.warns(UserWarning, match=rf"unreadable shard: http://127.*{status}") as caught:
        assert not list(read_shard(url, SkipCounts()))
    assert not any("secret" in str(warning.message) for warning in caught)


def test_names_with_spaces_and_umlauts_are_quoted(serve):
    server = serve()
    assert fetch(server, server.url.replace("a.tar", "größe 1%202.tar?x=a b&y=/")) == CONTENT
    assert server.paths[0] in ("/gr%C3%B6%C3%9Fe%201%202.tar?x=a+b&y=/", "/gr%C3%B6%C3%9Fe%201%202.tar?x=a%20b&y=/")


def test_a_shard_is_whole_after_a_stall(serve, tmp_path):
    shard = write_tar(tmp_path / "a.tar", [(str(i), {"txt": "t" * 700}) for i in range(40)]).read_bytes()
    skipped = SkipCounts(quiet=True)
    assert [sample.key for sample in read_shard(serve(shard, ["stall"]).url, skipped)] == [str(i) for i in range(40)]
    assert not skipped.counts


def test_a_shard_is_broken_where_the_server_gives_up(serve, tmp_path):
    shard = write_tar(tmp_path / "a.tar", [(str(i), {"txt": "t" * 70_000}) for i in range(40)]).read_bytes()
    skipped = SkipCounts(quiet=True)
    broken = list(read_shard(serve(shard, [None] + [503] * 20).url, skipped))
    assert 0 < len(broken) < 40
    assert dict(skipped.counts) == {"broken shard": 1}


def test_any_file_system_of_fsspec_is_read():
    import fsspec

    with fsspec.open("memory://shards/a.tar", "wb") as file:
        file.write(CONTENT)
    assert fetch(None, "memory://shards/a.tar") == CONTENT
