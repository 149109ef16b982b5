"""A file on a web server as a stream that goes on where a connection broke or stalled."""

from __future__ import annotations

import io
import re
import time
from http.client import HTTPException, HTTPResponse, InvalidURL
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPBasicAuthHandler, HTTPPasswordMgrWithPriorAuth, OpenerDirector, Request, build_opener

PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Status codes of servers that may answer a later request."""
RESERVED = "/?%:@!$&'()*+,;=~"


class ChangedError(OSError):
    """What the server holds is no longer what was read of it: trying again would not help."""


class Download(io.RawIOBase):
    """What an http or https URL holds, as an unbuffered stream.

    Where the server stops sending or closes the connection early, the rest is asked for again, and the stream reads on
    as if nothing had happened. A server without support for ranges sends the beginning again, which is passed over.

    Args:
        url: with `user:password@` in front of the host, that host gets them. Proxies come from the environment.

    Raises:
        OSError: here, if there is no such server or it refuses; here or while reading, if `attempts` have failed
            without one more byte in between, or the file has become another one since its beginning was read.
    """

    timeout = 60.0
    """Seconds without a byte, after which a connection counts as broken."""
    attempts = 6
    """How often the same byte is asked for, after pauses of 1, 2, 4, … seconds."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self._open = _opener(url)
        self._read = 0
        self._failed = 0
        self._response: HTTPResponse | None = None
        self._total: int | None = None
        self._version: str | None = None
        self._begun = False
        self._connect()

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the beginning of a buffer; the number of bytes, 0 at the end."""
        if self.closed:
            raise ValueError("the download is closed")
        while self._read != self._total:
            if self._response is None:
                self._connect()
                continue
            try:
                chunk = self._response.read1(len(buffer))  # whatever is there: a stall later on must not lose it
                if not chunk and self._total is not None:
                    raise ConnectionError(f"the connection ended after {self._read} of {self._total} bytes")
            except (OSError, HTTPException) as error:
                self._pause(error)
                continue
            buffer[: len(chunk)] = chunk
            self._read += len(chunk)
            self._failed = 0
            return len(chunk)
        return 0

    def close(self) -> None:
        """Close the connection."""
        self._disconnect()
        super().close()

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _connect(self) -> None:
        """Ask for the bytes from where we are, once; a failure that may pass leaves us without a response."""
        request = Request(self._url, headers={"User-Agent": "pixelgen"})
        if self._read:
            request.add_header("Range", f"bytes={self._read}-")
        try:
            self._continue(self._open.open(request, timeout=self.timeout))
        except ChangedError:
            raise
        except InvalidURL as error:
            raise OSError(str(error)) from error
        except HTTPError as error:
            error.close()
            if error.code == 416 and _content_range(error.headers["Content-Range"]) == (None, self._read):
                self._total = self._read  # all but the end mark of a file of unknown length had arrived
            elif error.code in PASSING:
                self._pause(error)
            else:
                raise
        except (OSError, HTTPException) as error:
            refused = isinstance(error, URLError) and not isinstance(error.reason, TimeoutError)
            if refused and not self._begun:  # no such host, nobody there, no valid certificate
                raise
            self._pause(error)

    def _continue(self, response: HTTPResponse) -> None:
        """Take a response that begins where we are, or go there."""
        headers = response.headers
        version = headers["ETag"] or headers["Last-Modified"]
        first: int | None = 0
        total = None if headers["Content-Length"] is None else int(headers["Content-Length"])
        if response.status == 206:
            first, total = _content_range(headers["Content-Range"])
        grew = None not in (total, self._total) and total != self._total
        begin = self._read + 1 if first is None else first
        if begin > self._read or (self._begun and (version != self._version or grew)):
            response.close()
            raise ChangedError(f"the file on the server changed after {self._read} bytes were read")
        self._response, self._version, self._begun = response, version, True
        self._total = self._total if total is None else total
        while begin < self._read:
            passed = len(response.read(min(self._read - begin, 1 << 20)))
            if not passed:
                raise ConnectionError(f"the connection ended after {begin} bytes")
            begin += passed

    def _pause(self, error: Exception) -> None:
        """Wait before the next attempt; raises after the last one."""
        self._disconnect()
        self._failed += 1
        if self._failed >= self.attempts:
            raise OSError(f"{str(error) or type(error).__name__}; tried {self._failed} times") from error
        time.sleep(2.0 ** (self._failed - 1))


def _opener(url: str) -> tuple[str, OpenerDirector]:
    """The URL without credentials and with all but its reserved characters quoted, and what opens it with them."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    path, query = quote(parts.path, safe=RESERVED), quote(parts.query, safe=RESERVED)
    plain = urlunsplit((parts.scheme, host, path, query, ""))
    if not login:
        return plain, build_opener()
    user, _, password = login.partition(":")
    passwords = HTTPPasswordMgrWithPriorAuth()
    passwords.add_password(None, f"{parts.scheme}://{host}/", unquote(user), unquote(password), is_authenticated=True)
    return plain, build_opener(HTTPBasicAuthHandler(passwords))


def _content_range(header: str | None) -> tuple[int | None, int | None]:
    """First byte and length of the file from `bytes 5-9/10` or `bytes */10`; None for what it does not say."""
    found = re.fullmatch(r"bytes (?:\*|(\d+)-\d+)/(?:\*|(\d+))", header or "")
    first, length = found.groups() if found else (None, None)
    return None if first is None else int(first), None if length is None else int(length)
