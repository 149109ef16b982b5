"""Files that are there as a whole or not at all."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keep other processes from making the same folder meanwhile, with a lock beside it that dies with the process.

    Raises:
        ValueError: if another process has it, or something cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(lock, flags, 0o666), "r+b") as file:
            if not _locked(file.fileno()):
                raise ValueError(f"another process is writing {path}: wait for its end, or choose another folder")
            yield
            lock.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"could not write {path} ({error}): free some space or choose another folder") from error


def _locked(file: int) -> bool:
    """Whether this process has the lock of a file now; also where the file system or the machine has no locks."""
    with suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
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
