"""A remote file, fetched by fsspec in blocks, as a stream that resumes where a connection broke or stalled."""

import io
import re
import time
from collections.abc import Iterator
from typing import Any

from aiohttp import ClientConnectorError, ClientResponseError, ClientTimeout
from fsspec.core import url_to_fs

PASSING = {408, 425, 429, 500, 502, 503, 504}  # status codes of servers that may answer a later request
VERSION = ("size", "ETag", "etag", "Last-Modified", "LastModified")  # tell versions apart, where a server says them


class RemoteFile(io.RawIOBase):
    """A file by its URL: http, https, s3, gs and whatever else fsspec has a package for.

    After a failure the file is opened again at the same byte; without support for ranges, what was read is passed over.
    `user:password@` in front of an http host is for that host alone. Proxies come from the environment. An ImportError
    or ValueError if fsspec cannot open such URLs; an OSError, here or while reading, if the file is missing or refused,
    if `attempts` have failed without one more byte in between, or if the file has changed since its beginning was read.
    """

    timeout = 60.0  # seconds without a byte, after which a connection counts as broken
    attempts = 6  # at the same block, after pauses of 1, 2, 4, … seconds
    block_bytes = 1 << 22

    def __init__(self, url: str) -> None:
        super().__init__()
        limits = ClientTimeout(total=None, sock_connect=self.timeout, sock_read=self.timeout)
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}} if url.startswith("http") else {}
        self._system, self._path = url_to_fs(url, **options)
        self._file: Any = None
        self._info: dict[str, Any] = {}
        self._block, self._read = self.block_bytes, 0
        self._attempt(0)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the beginning of a buffer; the number of bytes, 0 at the end."""
        if self.closed:
            raise ValueError("the download is closed")
        content = self._attempt(len(buffer))
        buffer[: len(content)] = content
        self._read += len(content)
        return len(content)

    def _attempt(self, length: int) -> bytes:
        """Read up to so many bytes, after opening the file if need be; fails when trying again would not help."""
        for failed in range(1, self.attempts + 1):
            try:
                self._file = self._file or self._open()
                content: bytes = self._file.read(length) if length else b""
                size = self._info.get("size") or 0
                if length and not content and self._read < size:
                    raise ConnectionError(f"the connection ended after {self._read} of {size} bytes")
                return content
            except Exception as error:  # each file system has errors of its own
                self._file = None
                *_, cause = _causes(error)
                reason = without_login(str(cause) or type(cause).__name__)
                if "support range requests" in reason:
                    self._block = 0  # a stream from the beginning
                elif not self._may_pass(error):
                    raise OSError(reason) from None
                elif failed == self.attempts:
                    raise OSError(f"{reason}; tried {failed} times") from None
            time.sleep(2.0 ** (failed - 1))
        raise AssertionError("the last attempt returns or raises")

    def _open(self) -> Any:
        """The file at the byte where we are."""
        info = self._system.info(self._path)
        if self._info and any(self._info.get(name) != info.get(name) for name in VERSION):
            raise ValueError(f"the file on the server changed after {self._read} bytes were read")
        self._info = info
        file = self._system.open(self._path, block_size=self._block, cache_type="readahead")
        try:
            file.seek(self._read)
        except ValueError:  # a stream
            passed = 0
            while passed < self._read:
                chunk = file.read(min(self._read - passed, 1 << 20))
                if not chunk:
                    raise ConnectionError(f"the connection ended after {passed} bytes") from None
                passed += len(chunk)
        return file

    def _may_pass(self, error: Exception) -> bool:
        """Whether the same request may succeed later: not where nobody is there or the file is missing."""
        causes = list(_causes(error))
        status = next((cause.status for cause in causes if isinstance(cause, ClientResponseError)), None)
        if status is not None:
            return status in PASSING
        if isinstance(causes[-1], (FileNotFoundError, PermissionError, ValueError)):
            return False
        return bool(self._info) or not any(isinstance(cause, ClientConnectorError) for cause in causes)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def without_login(text: str) -> str:
    """A text without the `user:password@` of the URLs in it."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
