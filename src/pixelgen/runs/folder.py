"""The folder of a run: which one it is, and the config in it."""

import shutil
from itertools import count
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from pixelgen.files import write_text

CLAIM = ".claimed"


def unused_folder(wanted: Path, first_process: bool = True) -> Path:
    """`wanted`, or `wanted-2`, `wanted-3`, … : the first that does not exist or is empty. Nothing is created.

    To the other processes of a run, the folder that the first one may have claimed by now is empty.
    """
    passed_over = set() if first_process else {CLAIM}
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not folder.exists() or (folder.is_dir() and passed_over.issuperset(path.name for path in folder.iterdir())):
            return folder
    raise AssertionError


def claim_folder(folder: Path) -> None:
    """Make the folder of a new run; of several that have found it unused, one gets it, and the others fail."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CLAIM).touch(exist_ok=False)
    except FileExistsError as error:
        raise ValueError(
            f"another run has just taken {folder}: start again, or give each run its own folder with --run"
        ) from error
    except OSError as error:
        raise ValueError(f"could not make {folder} ({error}): give another folder with --run") from error


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config into the run's folder; when a run is resumed, the former one is kept by number."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config of a new run."""
        if self.config.ckpt_path is None:
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save that of a resumed run: by now its checkpoint has turned out to fit."""
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on rank 0, once all ranks are there."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.yaml"
        config = self.config.clone()
        origin = config.init_from
        for key in ("run", "ckpt_path", "init_from"):  # whoever resumes this run says where from anew
            config[key] = None
        text = self.parser.dump(config, skip_unset=False, skip_validation=True)
        text = f"# started from the weights of {origin}\n{text}" if origin else text
        former = path.read_text() if path.exists() else text
        if _settings(former) != _settings(text):
            number = next(n for n in count(1) if not (folder / f"config-{n}.yaml").exists())
            shutil.copyfile(path, folder / f"config-{number}.yaml")
        elif path.exists():
            return
        write_text(path, text)
        (folder / CLAIM).unlink(missing_ok=True)


def _settings(config: str) -> list[str]:
    """The lines of a config without comments."""
    return [line for line in config.splitlines() if not line.startswith("#")]
