"""The folder of a run: which one it is, and the config in it."""

import os
import socket
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import IO, Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from pixelgen.files import locked, open_lock, read_text, write_text
from pixelgen.text import public

LOCK = ".lock"
NAMED = 8  # changed settings that are named


def unused_folder(wanted: Path, first_process: bool = True) -> Path:
    """`wanted`, or `wanted-2`, `wanted-3`, … : the first that does not exist or is empty. Nothing is created.

    To the other processes of a run, the folder that the first one may have locked by now is empty.
    """
    passed_over = set() if first_process else {LOCK}
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not folder.exists() or (folder.is_dir() and passed_over.issuperset(path.name for path in folder.iterdir())):
            return folder
    raise AssertionError


def lock_folder(folder: Path, new: bool) -> IO[str]:
    """Make the folder of a run, and keep it from every other job until the file that is returned is closed.

    The lock dies with this process, however it ends. It holds on one machine and, as far as the servers have locks, on
    network file systems; where there are none, nothing is locked.

    Raises:
        ValueError: if another job has it, if a `new` run finds it used by now, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_lock(folder / LOCK)
    except OSError as error:
        raise ValueError(f"could not make {folder} ({error}): give another folder with --run") from error
    own = "give this run its own folder with --run"
    if not locked(file.fileno()):
        raise ValueError(f"{file.read() or 'another process'} is training in {folder}: wait for its end, or {own}")
    if new and any(path.name != LOCK for path in folder.iterdir()):
        raise ValueError(f"another run has just taken {folder}: start again, or {own}")
    os.register_at_fork(after_in_child=file.close)  # workers may live longer than the process that has the lock
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config into the run's folder; when a run is resumed, the former one is kept by number.

    What has changed is said in one line.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config of a new run."""
        if self.config.ckpt_path is None:
            super().setup(trainer, pl_module, stage)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save that of a resumed run: by now its checkpoint has turned out to fit."""
        super().setup(trainer, pl_module, "fit")  # which saves once

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on rank 0, once all ranks are there."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.yaml"
        config = public(self.config)
        if config != self.config:
            rank_zero_warn("config.yaml gets the URLs without their credentials: give them again to resume")
        origin = config.init_from
        for key in ("run", "ckpt_path", "init_from"):  # whoever resumes this run says where from anew
            config[key] = None
        config.pop("trust", None)  # nor does a config trust itself
        text = self.parser.dump(config, skip_unset=False, skip_validation=True)
        text = f"# started from the weights of {origin}\n{text}" if origin else text
        former = read_text(path) if path.exists() else text
        if _settings(former) != _settings(text):
            number = next(n for n in count(1) if not (folder / f"config-{n}.yaml").exists())
            write_text(folder / f"config-{number}.yaml", former)
            changes = _changes(yaml.safe_load(former), yaml.safe_load(text))
            more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
            rank_zero_info(
                f"resumed with other settings than in config-{number}.yaml: {', '.join(changes[:NAMED])}{more}"
            )
        elif path.exists():
            return
        write_text(path, text)


def _settings(config: str) -> list[str]:
    """The lines of a config without comments."""
    return [line for line in config.splitlines() if not line.startswith("#")]


def _changes(former: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What differs between two configs, as `model.optimizer.lr 0.001 -> 1e-05`."""
    before, after = (dict(_leaves(settings)) for settings in (former, config))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    return [f"{key} {before.get(key)} -> {after.get(key)}" for key in keys]


def _leaves(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its name on the command line."""
    for name, value in settings.items():
        key = above if name == "init_args" else f"{above}.{name}".removeprefix(".").removesuffix(".class_path")
        yield from _leaves(value, key) if isinstance(value, Mapping) else [(key, value)]
