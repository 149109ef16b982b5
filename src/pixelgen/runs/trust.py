"""What the config of a run may name that somebody else made: parts of pixelgen, torch and lightning, no commands."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment, Precision
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pixelgen.config import parse_yaml
from pixelgen.files import read_text
from pixelgen.text import expand_pattern

KNOWN = ("pixelgen", "torch", "lightning")
MODULES = re.compile(  # which hold what a config may name
    r"pixelgen\.(PixelGen$|(callbacks|conditioner|data|distributed|encoders|evaluation|flow|losses|models|module)\.)"
    r"|torch\.(nn|optim)\.|lightning\."
)
PARTS = (
    *(nn.Module, Optimizer, LRScheduler, LightningDataModule, Callback, Logger, Profiler),
    *(Strategy, Precision, CheckpointIO, ClusterEnvironment),
)
NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")  # what Python could import
WRITTEN = (  # arguments of loggers and callbacks, of which the trainer makes paths
    *("save_dir", "dirpath", "root_dir", "log_dir", "dir", "sub_dir", "name", "version", "filename", "prefix"),
    *("tracking_uri", "artifact_location", "offline_directory"),
)


class ForeignError(ValueError):
    """A config names what only somebody who trusts it should build."""


def refuse_foreign(config: Any, path: Path) -> None:
    """Refuse a config, read from `path`, that names foreign classes, commands or folders elsewhere.

    Nothing of what it names is imported unless it is a part of pixelgen, torch or lightning.

    Raises:
        ForeignError: naming the first, and how it can be allowed.
    """
    if found := next(_foreign(config, "", path.parent, set()), None):
        raise ForeignError(f"{path} {found}: add --trust (trust=True in Python) if you trust whoever made it")


def _foreign(value: Any, key: str, folder: Path, read: set[Path]) -> Iterator[str]:
    """What is foreign in the value of a key, in whatever form the parser would take it; `read` are files met so far."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _foreign(inner, str(name).rpartition(".")[2], folder, read)
    elif isinstance(value, str):
        yield from _in_text(value, key)
        with suppress(ValueError):
            if (inner := parse_yaml(value)) != value and isinstance(inner, Mapping | Sequence | Set):
                yield from _foreign(inner, key, folder, read)
        for file in _files(value, folder):
            if file not in read:
                read.add(file)
                yield from _foreign(_config_in(file), key, file.parent, read)
    elif isinstance(value, Sequence | Set) and not isinstance(value, bytes):
        for inner in value:
            yield from _foreign(inner, key, folder, read)


def _in_text(text: str, key: str) -> Iterator[str]:
    if _is_command(text):
        yield f"would run the command {text!r}"
    if key in WRITTEN and (Path(text).is_absolute() or text.startswith("~") or ".." in Path(text).parts):
        yield f"would write into {text}"
    is_class = key == "class_path" and not text.isidentifier()
    if (is_class or NAME.fullmatch(text)) and not _is_known(text, is_class):
        yield f"names {text.strip()}, which is no part of pixelgen, torch or lightning that a config needs"


def _is_known(name: str, is_class: bool) -> bool:
    """Whether a name is that of a part, or, unless it must be a class, of nothing that could be imported."""
    root = name.partition(".")[0]
    if root not in KNOWN:
        return not is_class and not _is_importable(root)
    module, _, attribute = name.rpartition(".")
    try:
        return MODULES.match(name) is not None and _is_part(getattr(import_module(module), attribute))
    except ImportError:  # or what a module has imported: the parser would look into that
        return False
    except AttributeError:  # which the parser tells in its own words
        return True


def _is_part(found: Any) -> bool:
    """Whether something is a class that configs may name, or one of the functions that build a network."""
    home = getattr(found, "__module__", "")
    if isinstance(found, type):
        return home.partition(".")[0] in KNOWN and (issubclass(found, PARTS) or bool(MODULES.match(f"{home}.")))
    rooms = [import_module(f"pixelgen.{room}") for room in ("models", "encoders")]
    return any(getattr(room, name) is found for room in rooms for name in room.__all__)


def _is_importable(root: str) -> bool:
    try:
        return find_spec(root) is not None  # of a module's first name, this runs nothing
    except ValueError:
        return True


def _is_command(text: str) -> bool:
    """Whether `ShardData` would start a command to read such shards."""
    if not re.search(r"[:{$]", text):
        return False
    with suppress(ValueError):
        return any(shard.startswith("pipe:") for shard in expand_pattern(text))
    return False


def _files(text: str, folder: Path) -> list[Path]:
    """The files that a text may stand for, where the parser would read the value from them."""
    with suppress(OSError, ValueError, RuntimeError):
        return [path.resolve() for path in (Path(text).expanduser(), folder / text) if path.is_file()]
    return []


def _config_in(file: Path) -> Any:
    """What a text file says as YAML; None for others, which the parser cannot read either."""
    with suppress(OSError, ValueError), file.open("rb") as stream:
        if b"\0" not in stream.read(4096):
            return parse_yaml(read_text(file))
    return None
