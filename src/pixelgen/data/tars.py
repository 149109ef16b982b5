"""Tar shards in webdataset's convention: files of a sample share a name up to the first dot and stand together."""

import bz2
import glob
import io
import os
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from webdataset.gopen import gopen, rewrite_url
from webdataset.tariterators import base_plus_ext

from pixelgen.data.layout import LEFTOVERS, find_layout, list_files
from pixelgen.data.remote import RemoteFile
from pixelgen.files import what_is
from pixelgen.text import expand_pattern, plain

IMAGES = ("jpg", "jpeg", "png", "webp", "jpe", "jfif", "bmp", "gif", "tif", "tiff", "avif", "ppm", "pgm", "pnm", "jp2")
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
LONGEST = 500  # characters of what is said of a sample that is left out
MAX_BYTES = 1 << 28  # of a sample's files together; no image that is read needs more
MAX_FILE = 1 << 40  # of what a header may tell of a file, which is passed over byte by byte
MAX_HEADER = 1 << 20  # of a long name, or of what else comes before a file, which tarfile reads at once
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


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
        """Bytes of all files; empty ones take room, too."""
        return max(64, sum(map(len, self.files.values())))


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
        "unreadable file",
        "beyond limits",
    )

    def __init__(self, quiet: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # where the first of each kind was found, and why
        self._taken: Counter[str] = Counter()
        self.quiet = quiet

    def add(self, reason: str, place: str) -> None:
        """Count one, found at `place`."""
        assert reason in self.REASONS
        if not self.counts[reason]:
            self.first[reason] = plain(place[:LONGEST])
            if not self.quiet:
                said = f"skipped, {reason}: {self.first[reason]} (others of the kind are only counted)"
                warnings.warn(said, stacklevel=2)
        self.counts[reason] += 1

    def listed(self) -> list[int]:
        """The counts in the order of `REASONS`, which grows at its end only."""
        return [self.counts[reason] for reason in self.REASONS]

    def restore(self, counts: Sequence[int]) -> None:
        """Go on from counts as `listed` returned them, also where there were fewer reasons."""
        self.counts.update(dict(zip(self.REASONS, counts, strict=False)))

    def take(self) -> list[int]:
        """The counts in the order of `REASONS`; of what follows, only the number added since the last call."""
        added = [self.counts[reason] - self._taken[reason] for reason in self.REASONS]
        self._taken = self.counts.copy()
        return added


def expand_shards(pattern: str) -> list[str]:
    """The shards that a pattern names, sorted within each local pattern; a ValueError if one matches nothing.

    A pattern is a path or URL with `{000..123}` or `{a,b}`; a local path may have `*`, `?` and `[…]` too, or be a
    folder, which stands for the tars in it. Several are joined by `::`, `${name}` is the environment variable WDS_name,
    as in webdataset. URLs: http, https, `pipe:command`, and what else webdataset opens.
    """
    return [shard for part in expand_pattern(pattern) for shard in ([part] if is_remote(part) else _local(part))]


def is_remote(shard: str) -> bool:
    """Whether it is a URL rather than a path."""
    scheme, colon, _ = shard.partition(":")
    return bool(colon) and "/" not in scheme and len(scheme) > 1


def _local(path: str) -> list[str]:
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return _in_folder(Path(path))
    if not glob.has_magic(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise ValueError(f"no shards match {path}: give the tar files, as in data/{{000..123}}.tar, or their folder")
    return found


def _in_folder(folder: Path) -> list[str]:
    """The tars in a folder, at any depth, or in the part of it that is for training."""
    layout = find_layout(folder, TARS)
    found = list_files(layout.train, TARS)
    if not found.files:
        raise ValueError(
            f"no shards in {folder}: give a folder with {', '.join(TARS)} files; images in folders are read by "
            "ImageFolderData, and packed by `python -m pixelgen.data.pack`"
        )
    for note in filter(None, (*layout.notes, found.left_out)):
        rank_zero_warn(note)
    if layout.val is not None:
        rank_zero_warn(
            f"the shards in {layout.train} are read; those in {layout.val} only if they are given themselves"
        )
    return found.files


class _Header(tarfile.TarInfo):
    """tarfile ends quietly at a header that is damaged or cut off; this raises, for all but the end mark."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
            if header.size > (MAX_HEADER if header.type in LONG_HEADERS else MAX_FILE):
                raise tarfile.ReadError(f"a header of {header.size} bytes")
            return header
        except tarfile.HeaderError as error:
            if buf.strip(b"\0") or len(buf) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError(str(error)) from error
            raise


def read_shard(shard: str, skipped: SkipCounts, epoch: int = 0) -> Iterator[Sample]:
    """Samples of a tar in their order, up to where it is damaged; what is wrong with it goes to `skipped`."""
    try:
        stream = _open(shard)
    except Exception as error:  # each scheme has errors of its own
        skipped.add("unreadable shard", f"{shard} ({getattr(error, 'strerror', None) or error})")
        return
    key, head = None, b"\0"
    try:
        if isinstance(stream, BufferedReader):
            head = stream.peek(1024)[:1024]
        for key, members in groupby(_files(stream), lambda member: member[0]):
            files: dict[str, bytes] = {}
            within = True
            for _, extension, content in members:
                if extension.lower() in files:
                    skipped.add("repeated file", f"{key}.{extension} in {shard}")
                within = within and content is not None
                files.setdefault(extension.lower(), content or b"")
            if within:
                yield Sample(shard, key, files, epoch)
            else:
                skipped.add("beyond limits", f"{key} in {shard} (its files have more than {MAX_BYTES} bytes)")
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        # the files of the last sample may be incomplete, so it is left out
        reason, after = ("broken shard", f" after {key}") if key is not None else ("unreadable shard", "")
        skipped.add(reason, f"{shard} ({error}{what_is(head, 'gzip') if key is None else ''}){after}")
    finally:
        with suppress(Exception):  # a command whose output nobody reads to the end may complain
            if hasattr(stream, "proc"):  # webdataset would wait for it, for hours where a server has stalled
                stream.proc.kill()
            stream.close()


def _open(shard: str) -> Any:
    """A binary stream of a path, of a URL that fsspec can open, or of the output of a command."""
    url = rewrite_url(shard)
    if url.startswith("pipe:"):
        return gopen(shard)  # which rewrites by itself
    return BufferedReader(RemoteFile(url), 1 << 20) if is_remote(url) else open(url, "rb")


def _files(stream: Any) -> Iterator[tuple[str, str, bytes | None]]:
    """Key, extension and content of the files in a tar, compressed or not; tar's own and leftovers are left out.

    The content is None where those of a key have more than `MAX_BYTES` bytes.
    """
    held, last = 0, None
    peek = getattr(getattr(stream, "stream", stream), "peek", None)
    if peek is not None and peek(3)[:3] == b"BZh":
        stream = bz2.BZ2File(stream)  # tarfile itself unpacks ten kilobytes at once, which may be as many gigabytes
    with closing(tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header)) as tar:
        for member in tar:
            if member.size > MAX_FILE:  # as an extended header may say
                raise tarfile.ReadError(f"{member.name} of {member.size} bytes")
            key, extension = base_plus_ext(member.name)
            content = tar.extractfile(member) if member.isreg() and key is not None else None
            if content is not None and not _is_leftover(Path(member.name)):
                held, last = member.size + (held if key == last else 0), key
                yield key, extension, content.read() if held <= MAX_BYTES else None
            tar.members.clear()  # type: ignore[attr-defined]  # else every header of the shard stays in memory


def _is_leftover(path: Path) -> bool:
    return path.name.startswith((".", "__")) or not LEFTOVERS.isdisjoint(part.lower() for part in path.parts)


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
