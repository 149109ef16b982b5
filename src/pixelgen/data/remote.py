"""A file on a web server as a stream that goes on where a connection broke or stalled."""

from __future__ import annotations

import io
import time
from base64 import b64encode
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Status codes of servers that may answer a later request."""


class Download(io.RawIOBase):
    """What an http or https URL holds, as an unbuffered stream.

    Where the server stops sending or closes the connection early, the rest is asked for again, and the stream reads on
    as if nothing had happened. A server without support for ranges sends the beginning again, which is passed over.

    Args:
        url: with `user:password@` in front of the host, these are sent. Proxies come from the environment.

    Raises:
        OSError: here or while reading, if the server refuses, `attempts` have failed without one more byte in between,
            or the file has become another one since its beginning was read.
    """

    timeout = 60.0
    """Seconds without a byte, after which a connection counts as broken."""
    attempts = 6
    """How often the same byte is asked for, after pauses of 1, 2, 4, … seconds."""

    def __init__(self, url: str) -> None:
        super().__init__()
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
        self._url = urlunsplit(parts._replace(netloc=host))
        self._headers = {"Authorization": f"Basic {b64encode(unquote(login).encode()).decode()}"} if login else {}
        self._read = 0
        self._failed = 0
        self._response: HTTPResponse | None = None
        self._total: int | None = None
        self._version: str | None = None
        self._connect()

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the beginning of a buffer; the number of bytes, 0 at the end."""
        while True:
            if self._response is None:
                self._connect()
            assert self._response is not None
            try:
                chunk = self._response.read1(len(buffer))  # whatever is there: a stall later on must not lose it
                if not chunk and self._total is not None and self._read < self._total:
                    raise ConnectionError(f"the connection ended after {self._read} of {self._total} bytes")
            except (OSError, HTTPException) as error:
                self._pause(error)
                continue
            buffer[: len(chunk)] = chunk
            self._read += len(chunk)
            self._failed = 0
            return len(chunk)

    def close(self) -> None:
        """Close the connection."""
        self._disconnect()
        super().close()

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _connect(self) -> None:
        """Ask for the bytes from where we are."""
        while self._response is None:
            headers = dict(self._headers)
            if self._read:
                headers["Range"] = f"bytes={self._read}-"
            try:
                response = urlopen(Request(self._url, headers=headers), timeout=self.timeout)
                self._continue(response)
            except HTTPError as error:
                error.close()
                if error.code not in PASSING:
                    raise
                self._pause(error)
            except (OSError, HTTPException) as error:
                if isinstance(error, _ChangedError):
                    raise
                self._pause(error)

    def _continue(self, response: HTTPResponse) -> None:
        """Take a response that begins where we are, or go there."""
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if self._read and version != self._version:
            response.close()
            raise _ChangedError(f"the file on the server changed after {self._read} bytes were read")
        self._response, self._version = response, version
        length = response.headers.get("Content-Length")
        begin = self._read if response.status == 206 else 0
        self._total = begin + int(length) if length is not None else None
        while begin < self._read:
            passed = len(response.read(min(self._read - begin, 1 << 20)))
            if not passed:
                raise ConnectionError(f"the connection ended after {begin} bytes")
            begin += passed

    def _pause(self, error: Exception) -> None:
        """Wait before the next attempt; raises after the last one."""
        self._disconnect()
        self._failed += 1
        if self._failed == self.attempts:
            raise OSError(f"{error or type(error).__name__}; tried {self.attempts} times") from error
        time.sleep(2.0 ** (self._failed - 1))


class _ChangedError(OSError):
    """Trying again would not help."""
