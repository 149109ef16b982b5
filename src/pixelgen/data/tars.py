"""Tar shards in webdataset's convention: files of a sample share a name up to the first dot and stand together."""

import glob
import io
import os
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import Any

from webdataset.gopen import gopen, rewrite_url
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from pixelgen.data.remote import RemoteFile, without_login

IMAGES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Sample:
    """One sample as it lies in a shard: the bytes of its files by extension (`jpg`, `txt`, …), in lower case.

    `epoch` is the number of the pass over the shards in which it was read.
    """

    shard: str
    key: str
    files: dict[str, bytes]
    epoch: int = 0

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


class SkipCounts:
    """Counts what was left out, by reason, and warns of the first of each kind with its place."""

    REASONS = (
        "unreadable shard",
        "broken shard",
        "repeated file",
        "no image",
        "corrupt image",
        "small image",
        "no caption",
        "no label",
        "wrong label",
        "no text states",
    )

    def __init__(self, quiet: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self.quiet = quiet

    def add(self, reason: str, place: str) -> None:
        """Count one, found at `place`."""
        assert reason in self.REASONS
        if not self.counts[reason] and not self.quiet:
            place = without_login(place)
            warnings.warn(f"skipped, {reason}: {place} (others of the kind are only counted)", stacklevel=2)
        self.counts[reason] += 1

    def take(self) -> list[int]:
        """The counts in the order of `REASONS`; of what follows, only the number added since the last call."""
        added = [self.counts[reason] - self._taken[reason] for reason in self.REASONS]
        self._taken = self.counts.copy()
        return added


def expand_shards(pattern: str) -> list[str]:
    """The shards that a pattern names, sorted within each local pattern; a ValueError if one matches nothing.

    A pattern is a path or URL with `{000..123}` or `{a,b}`; a local path may have `*`, `?` and `[…]` too, or be a
    folder, which stands for its `*.tar`. Several are joined by `::`, `${name}` is the environment variable WDS_name, as
    in webdataset. URLs: http, https, `pipe:command`, and what else webdataset opens.
    """
    try:
        parts = expand_urls(pattern)
    except AssertionError as error:
        raise ValueError(f"the shards {pattern!r}: {error}") from error
    return [shard for part in parts for shard in ([part] if is_remote(part) else _local(part))]


def is_remote(shard: str) -> bool:
    """Whether it is a URL rather than a path."""
    scheme, colon, _ = shard.partition(":")
    return bool(colon) and "/" not in scheme and len(scheme) > 1


def _local(path: str) -> list[str]:
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        path = os.path.join(glob.escape(path), "*.tar")
    elif not glob.has_magic(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise ValueError(f"no shards match {path}: give the tar files, as in data/{{000..123}}.tar, or their folder")
    return found


class _Header(tarfile.TarInfo):
    """tarfile ends quietly at a header that is damaged or cut off; this raises, for all but the end mark."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.strip(b"\0") or len(buf) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError(str(error)) from error
            raise


def read_shard(shard: str, skipped: SkipCounts, epoch: int = 0) -> Iterator[Sample]:
    """Samples of a tar in their order, up to where it is damaged; what is wrong with it goes to `skipped`."""
    try:
        stream = _open(shard)
    except Exception as error:  # each scheme has errors of its own
        skipped.add("unreadable shard", f"{shard} ({error})")
        return
    key = None
    try:
        for key, members in groupby(_files(stream), lambda member: member[0]):
            files: dict[str, bytes] = {}
            for _, extension, content in members:
                if extension.lower() in files:
                    skipped.add("repeated file", f"{key}.{extension} in {shard}")
                files.setdefault(extension.lower(), content)
            yield Sample(shard, key, files, epoch)
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        # the files of the last sample may be incomplete, so it is left out
        reason, after = ("broken shard", f" after {key}") if key is not None else ("unreadable shard", "")
        skipped.add(reason, f"{shard} ({error}){after}")
    finally:
        with suppress(Exception):  # a command whose output nobody reads to the end may complain
            if hasattr(stream, "proc"):  # webdataset would wait for it, for hours where a server has stalled
                stream.proc.kill()
            stream.close()


def _open(shard: str) -> Any:
    """A binary stream: webdataset's own of paths, of commands, and of URLs for which fsspec lacks a package."""
    url = rewrite_url(shard)
    if is_remote(url) and not url.startswith("pipe:"):
        with suppress(ImportError, ValueError):
            return BufferedReader(RemoteFile(url), 1 << 20)
    return gopen(shard)  # which rewrites by itself


def _files(stream: Any) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and content of the files in a tar, compressed or not; tar's own and hidden files are left out."""
    with closing(tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header)) as tar:
        for member in tar:
            key, extension = base_plus_ext(member.name)
            content = tar.extractfile(member) if member.isreg() and key is not None else None
            if content is not None and not Path(member.name).name.startswith((".", "__")):
                yield key, extension, content.read()
            tar.members.clear()  # type: ignore[attr-defined]  # else every header of the shard stays in memory


def write_sample(tar: tarfile.TarFile, key: str, files: Mapping[str, bytes]) -> None:
    """Append a sample to a tar: its files by extension."""
    for extension, content in files.items():
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def check_unused(to: Path) -> None:
    """Raise a ValueError if a folder for shards is in use."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} exists already: give another folder with --to, or remove it")
