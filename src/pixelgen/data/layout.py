"""Folders as people have them: parts for training and validation, what systems leave behind, what is passed over."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

_SUFFIX = r"(?:[-_ ]?(?:set|data|images?|imgs?|\d+))?"  # as in train2017 and training_set
TRAIN = re.compile(rf"(?:train|training){_SUFFIX}", re.IGNORECASE)
VAL = tuple(
    re.compile(names + _SUFFIX, re.IGNORECASE)
    for names in ("val", "valid", "validation", "eval", "dev", "test(?:ing)?")
)
CONTAINER = re.compile(r"(?:images?|imgs?|data)[-_ ]?[\dx]*", re.IGNORECASE)  # names that are no class
LEFTOVERS = {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found"} | {
    "system volume information"
}
SIDE = {".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".npz", ".npy", ".db", ".ini", ".html"}
KINDS = 8  # that a message about files passed over names


@dataclass
class Listing:
    """The files wanted below a folder, sorted; and of each kind of what was passed over, where."""

    folder: Path
    files: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, kind: str, path: str) -> None:
        """Remember something that is passed over."""
        self.passed_over[kind].append(path)

    @property
    def left_out(self) -> str:
        """A sentence about what was passed over, by kind with an example each; empty if nothing was."""
        kinds = sorted(self.passed_over.items(), key=lambda kind: -len(kind[1]))
        named = [f"{len(paths)} × {kind} ({os.path.relpath(paths[0], self.folder)})" for kind, paths in kinds[:KINDS]]
        more = f" and {len(kinds) - KINDS} more kinds" if len(kinds) > KINDS else ""
        return f"passed over in {self.folder}: {', '.join(named)}{more}" if kinds else ""


@dataclass(frozen=True)
class Layout:
    """The folder of the training files, that of the validation files, and sentences about what is left out."""

    train: Path
    val: Path | None = None
    notes: tuple[str, ...] = ()


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or of those that file servers and archives leave behind."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def list_files(folder: Path, endings: tuple[str, ...]) -> Listing:
    """The files with such endings (lower case) anywhere below a folder, through links; a ValueError if one is closed.

    Hidden ones (`._x.jpg` of some archives) and leftovers of systems are left out, and no folder is entered twice.
    """
    found = Listing(folder)
    found.files = sorted(_walk(folder, endings, found.note))
    return found


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, by name."""
    return sorted(Path(entry) for entry in _entries(folder) if _is(entry.is_dir))


def loose_files(folder: Path, endings: tuple[str, ...]) -> Iterator[str]:
    """Paths of the files with such endings that lie directly in a folder."""
    return (entry.path for entry in _entries(folder) if entry.name.lower().endswith(endings) and _is(entry.is_file))


def holds(folder: Path, endings: tuple[str, ...]) -> bool:
    """Whether a file with such an ending lies anywhere below a folder."""
    return next(_walk(folder, endings, lambda kind, path: None), None) is not None


def find_layout(root: Path, endings: tuple[str, ...]) -> Layout:
    """Where the files for training and validation lie in a folder that somebody points at.

    Folders above the data that hold nothing else are entered (`ILSVRC/Data/CLS-LOC`, `ffhq/images1024x1024`). `train`
    and `val` go by many names (`Train`, `train2017`, `valid`, `validation`); `test` serves for validation where there
    is no other. Without a folder for training, everything is for training. A ValueError if there are several.
    """
    folder = _inner(root, endings)
    train = [path for path in subfolders(folder) if TRAIN.fullmatch(path.name) and holds(path, endings)]
    if not train:
        return Layout(folder)
    if len(train) > 1:
        named = " and ".join(path.name for path in train)
        raise ValueError(
            f"{folder} has several folders for training, {named}: give the one to use, or remove the others"
        )
    others = [path for path in subfolders(folder) if path not in train and holds(path, endings)]
    vals = [path for name in VAL for path in others if name.fullmatch(path.name)]
    if others and not vals and all(any(loose_files(path, endings)) for path in [*train, *others]):
        note = (
            f"{train[0]} is taken for a class, like {others[0].name} beside it: give {train[0]} itself to use it alone"
        )
        return Layout(folder, None, (note,))
    left = ", ".join(path.name for path in others if path not in vals[:1])
    notes = (f"left out of {folder}: {left}; only {train[0].name} is used for training",) if left else ()
    return Layout(_inner(train[0], endings), _inner(vals[0], endings) if vals else None, notes)


def _inner(folder: Path, endings: tuple[str, ...]) -> Path:
    """The folder itself, or below it the first that holds anything else than one folder with all the files.

    One that has files directly in it is a class, unless its name says that it is none.
    """
    while not any(loose_files(folder, endings)):
        filled = list(islice((path for path in subfolders(folder) if holds(path, endings)), 2))
        if len(filled) != 1 or (any(loose_files(filled[0], endings)) and not _is_no_class(filled[0].name)):
            break
        folder = filled[0]
    return folder


def _is_no_class(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in (CONTAINER, TRAIN, *VAL))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder and is no leftover, by name, links last."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not is_leftover(entry.name)]
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read ({error.strerror}): allow it, or move it away") from error
    return sorted(visible, key=lambda entry: (entry.is_symlink(), entry.name))


def _walk(folder: Path, endings: tuple[str, ...], note: Callable[[str, str], None]) -> Iterator[str]:
    """Paths of the files wanted; `note` gets the kind and the path of what is passed over."""
    entered = {_identity(path) for path in (folder.resolve(), *folder.resolve().parents)}
    pending = [os.fspath(folder)]
    while pending:
        for entry in _entries(pending.pop()):
            suffix = os.path.splitext(entry.name)[1].lower()
            if _is(entry.is_dir):
                if (identity := _identity(entry)) in entered:
                    note("link to a folder that is read already", entry.path)
                else:
                    entered.add(identity)
                    pending.append(entry.path)
            elif entry.name.lower().endswith(endings):
                if _is(entry.is_file):
                    yield entry.path
                else:
                    note("link that leads nowhere" if entry.is_symlink() else "no regular file", entry.path)
            elif suffix not in SIDE:
                note(suffix or "file without an extension", entry.path)


def _is(what: Callable[[], bool]) -> bool:
    """Whether an entry is a folder or a file; a link in a circle is neither."""
    try:
        return what()
    except OSError:
        return False


def _identity(path: os.DirEntry[str] | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
