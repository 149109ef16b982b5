"""Files that are there as a whole or not at all, text as other systems write it, and what files really are."""

import codecs
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import torch

UNFINISHED = ".{}.unfinished"  # the name of a file or folder while it is written


@contextmanager
def atomic(
    path: str | Path, fix: str = "free some space or choose another folder", flush: bool = True, unique: bool = True
) -> Iterator[Path]:
    """Write a file, or a folder, under a hidden temporary name beside it, which becomes `path` once it is whole.

    The temporary file is created anew, never through a link, and removed if writing fails. What was at `path` before
    stays until it is replaced.

    Args:
        path: the file; its folder is created.
        fix: what the user can do if it cannot be written.
        flush: wait until it is on the disk; off for files that are made again where they are missing.
        unique: a temporary name of its own for each writer; off where one writer replaces what another has left.

    Yields:
        The temporary path: an empty file, to be opened, or to be replaced by a folder.

    Raises:
        ValueError: if it cannot be written.
    """
    path = Path(path)
    own = f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}" if unique else path.name
    temporary = path.with_name(UNFINISHED.format(own))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        publish(temporary, path, flush)
    except OSError as error:
        raise ValueError(f"could not write {path} ({error}): {fix}") from error
    finally:
        remove(temporary)


KINDS = {  # what files begin with, in lower case
    b"version https://git-lfs": "a Git LFS pointer and not the file itself: run `git lfs pull` where it was cloned",
    b"<!doctype html": "a web page: download the file itself, perhaps after logging in",
    b"<html": "a web page: download the file itself, perhaps after logging in",
    b"<?xml": "an XML text, such as the error message of a server: download the file again",
    b"par1": "a Parquet file",
    b"\x89png": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x93numpy": "an array of NumPy",
    b"\x89hdf": "an HDF5 file",
    b"%!ps": "a PostScript program",
    b"%pdf": "a PDF document",
    b"\x1f\x8b": "compressed by gzip",
    b"rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"pk\x03\x04": "a zip archive",
}


def what_is(head: bytes | str | Path, wanted: str = "image") -> str:
    """What a file is instead of what its name says, as ": it is …"; "" if its beginning does not tell.

    Args:
        head: its first bytes, or its path.
        wanted: what it should be, of which nothing is said.
    """
    if not isinstance(head, bytes):
        try:
            with Path(head).open("rb") as file:
                head = file.read(1024)
        except OSError:
            return ""
    start = head.removeprefix(b"\xef\xbb\xbf").strip()
    found = next((kind for magic, kind in KINDS.items() if start.lower().startswith(magic)), "")
    line = start.partition(b"\n")[0][:40]
    if not found and line.isascii() and line.decode().isprintable():
        found = f"a text that begins with {line.decode()!r}" if line else "empty"
    return f": it is {found}" if found and wanted not in found else ""


def load_tensors(path: str | Path | IO[bytes], **options: Any) -> Any:
    """What torch has saved in a file, on the CPU: tensors and primitives alone, nothing in it is executed.

    `options` are those of `torch.load`. A ValueError says why the file cannot be read, or which Python object it needs.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, **options)
    except Exception as error:  # torch.load raises many kinds for a damaged file, and advises to load it unsafely
        if needed := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(f"it holds Python objects that cannot be loaded safely ({needed[1]}, …)") from error
        found = what_is(path, "zip") if isinstance(path, str | Path) else ""
        raise ValueError(f"it is cut off, damaged or no file of torch{found}") from error


def append_line(path: Path, text: str) -> None:
    """Add a line to a file, which is made if there is none; never through a link."""
    with os.fdopen(os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o666), "a") as file:
        file.write(text)


def decode(content: bytes) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one, its line ends as on Unix; else a ValueError."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if utf16 else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: str | Path) -> str:
    """The text of a file, as `decode` reads it; a ValueError names the file and the line that is not UTF-8."""
    content = Path(path).read_bytes()
    try:
        return decode(content)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}, is not UTF-8 text: save the file as UTF-8") from error


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file without the white space around them; other separators inside of a line are kept."""
    return [line.strip() for line in read_text(path).split("\n")]


def refuse_unwritable(path: Path, fix: str) -> None:
    """Refuse a file, before the long work whose result goes there, that could not be written after it."""
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"could not write {path} ({error}): {fix}") from error


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keep other processes from making the same folder meanwhile, with a lock beside it that dies with the process.

    Raises:
        ValueError: if another process has it, or something cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_lock(lock) as file:
            if not locked(file.fileno()):
                raise ValueError(f"another process is writing {path}: wait for its end, or choose another folder")
            yield
            lock.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"could not write {path} ({error}): free some space or choose another folder") from error


def open_lock(path: Path) -> IO[str]:
    """A file to be locked, made if there is none; never through a link."""
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+")


def locked(file: int) -> bool:
    """Whether this process has the lock of a file now; also where the file system or the machine has no locks."""
    with suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
    return True


def write_text(path: str | Path, text: str, fix: str = "free some space or choose another folder") -> None:
    """Write a text file as `atomic` does."""
    with atomic(path, fix) as temporary:
        temporary.write_text(text, encoding="utf-8")


def publish(temporary: Path, path: Path, flush: bool = True) -> None:
    """Flush a file, or the files of a folder, to the disk, and give it its name."""
    for file in [] if not flush else temporary.iterdir() if temporary.is_dir() else [temporary]:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if path.is_dir() and not path.is_symlink():  # a file is replaced atomically, a folder cannot be
        shutil.rmtree(path)
    os.replace(temporary, path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
