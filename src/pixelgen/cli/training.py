"""The command line: one flat parser for trainer, model, data and callbacks."""

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, get_args, get_type_hints

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichModelSummary
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from pixelgen.callbacks import Callbacks, Checkpoint, Periodic, Progress
from pixelgen.checks import COUNT, FROM_ZERO, POSITIVE, Range, check
from pixelgen.classes import refuse_other_classes
from pixelgen.cli.arguments import (
    LAST,
    fill,
    fill_schedule,
    follow,
    last_checkpoint,
    run_name,
    strategy_name,
    with_config_of_run,
    with_nulls,
)
from pixelgen.cli.command import TRUST
from pixelgen.conditioner import Unconditional
from pixelgen.config import build, one_sentence, read_yaml
from pixelgen.data import ImageData
from pixelgen.distributed.fsdp import refuse_unsupported
from pixelgen.models import Denoiser
from pixelgen.module import PixelGen
from pixelgen.runs.checkpoints import find_checkpoint, read_contents, run_folder
from pixelgen.runs.folder import SaveConfig, lock_folder, unused_folder
from pixelgen.runs.shards import is_sharded
from pixelgen.runs.transfer import check_resumable, start_from
from pixelgen.samples.sampling import default_precision

TRAINER_DEFAULTS = {
    "precision": default_precision(),
    "max_epochs": -1,
    "max_steps": 400_000,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 32,
    "log_every_n_steps": 20,
    "use_distributed_sampler": False,  # our order of samples knows ranks, and how to resume
}
# warnings of Lightning about itself, or about what is meant here
NOISE = (
    ".*treespec, LeafSpec.*",
    ".*not supported by the model summary.*",
    ".*across ranks is zero.*",
    ".*returned a view tensor.*",
)
RANGES = {
    **dict.fromkeys(("accumulate_grad_batches", "num_nodes", "check_val_every_n_epoch"), COUNT),
    **dict.fromkeys(("log_every_n_steps", "gradient_clip_val", "reload_dataloaders_every_n_epochs"), FROM_ZERO),
    "val_check_interval": POSITIVE,
}
SIZE, CLASSES = (f"model.init_args.denoiser.init_args.{name}" for name in ("input_size", "num_classes"))
ON_BY_DEFAULT = ("ema", "guard", "throughput", "skipped", "preview", "checkpoint", "summary")


class CLI(LightningCLI):
    """Builds model, data and trainer from configs and flags; `fit` trains.

    What the data decides (image size, number of classes) is filled into the model where the user left it out, and
    refused where it disagrees. `PolynomialLR` without `total_iters` ends with training. `seed_everything` is the seed
    of model and data unless they are given their own.

    Args:
        args: command-line arguments; None for those of the process.
    """

    _new = False  # whether the folder must be unused
    _lock: IO[str] | None = None

    def __init__(self, args: Sequence[str] | None = None) -> None:
        self.arguments = with_nulls(with_config_of_run(list(sys.argv[1:] if args is None else args)))
        try:
            self._build()
        except (ValueError, OSError, ModuleNotFoundError, ArgumentError, MisconfigurationException, TypeError) as error:
            flags = [flag for action in self.parser._actions for flag in action.option_strings]
            raise ValueError(one_sentence(error, flags)) from error

    def _build(self) -> None:
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
        super().__init__(
            PixelGen,
            ImageData,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={
                "allow_abbrev": False,
                "exit_on_error": False,
                "description": "Train diffusion models in pixel space.",
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=self.arguments,
            run=False,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks in slots, and where runs come from and go to."""
        parser.add_class_arguments(Callbacks, "callbacks")
        parser.set_defaults({f"callbacks.{slot}": {"class_path": _callback(slot)} for slot in ON_BY_DEFAULT})
        parser.add_argument(
            "--run",
            type=str | None,
            help="folder of the run; default runs/NAME, after the first config; a used one gets a number",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            help="resume: run folder or checkpoint, with optimizer, step and EMAs; "
            "`last`: resume in the folder of --run (or runs/NAME) if it has a checkpoint, else start there",
        )
        parser.add_argument(
            "--init_from",
            type=str | None,
            help="start from weights: run folder, checkpoint (its first EMA) or export",
        )
        parser.add_argument("--trust", action="store_true", help=f"with --ckpt_path and no --config: {TRUST}")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then fill in what data and seed decide."""
        self.config = parser.parse_args(self.arguments)
        check({"seed_everything": self.config.seed_everything}, {}, {"seed_everything": Range(0, 2**32 - 1)})
        check(self.config.trainer.as_dict(), {}, RANGES, "trainer.")
        if self.config.trainer.default_root_dir is not None:
            raise ValueError("trainer.default_root_dir is the folder of the run: give it as --run")
        for name in ("run", "ckpt_path", "init_from"):
            if self.config[name] is not None:
                check({name: self.config[name]}, {name: Path})
                self.config[name] = os.path.expanduser(self.config[name])
        self.goes_on = self.config.ckpt_path == LAST
        if self.goes_on:
            self.config.run = str(self._wanted_folder())
            self.config.ckpt_path = last_checkpoint(Path(self.config.run))
            if self.config.ckpt_path:
                self.config.init_from = None  # the run has started from these weights already
        elif self.config.ckpt_path and self.config.run:
            raise ValueError("--ckpt_path resumes in the folder of its run: leave --run out, or use --init_from")
        elif self.config.ckpt_path and self.config.init_from:
            raise ValueError("--ckpt_path resumes a run, --init_from starts one from weights: give only one of them")
        given = parser.parse_args(self.arguments, defaults=False)
        fill(self.config, given, "data.init_args.seed", self.config.seed_everything)
        fill(self.config, given, "model.init_args.seed", self.config.seed_everything)
        fill_schedule(self.config, given)
        if self.config.ckpt_path:
            former = find_checkpoint(self.config.ckpt_path).resolve().parent.parent / "config.yaml"
            follow(self.config, read_yaml(former) if former.is_file() else {}, self.arguments)
        data: ImageData = build(ImageData, self.config.data, "data")
        for key, value in ((SIZE, data.image_size), (CLASSES, data.num_classes)):
            fill(self.config, given, key, value)
        self.unused = CLASSES in self.config and CLASSES not in given  # conditions of the data, by oversight

    def _dump_config(self) -> None:
        """Model and data are not given their hyperparameters: `config.yaml` has them."""
        self.config_dump: dict[str, Any] = {}

    def instantiate_classes(self) -> None:
        """Under FSDP2 only rank 0 draws the weights of the denoiser; the other processes get their share from it."""
        rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
        if rank and strategy_name(self.config).endswith("FSDP"):
            arguments = self.config.model.init_args
            warnings.filterwarnings("ignore", message=r"\s*Unable to serialize instance")  # nothing of it is saved
            with torch.device("meta"):
                arguments.denoiser = build(Denoiser, arguments.denoiser, "denoiser")
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Check that model and data fit, and put everything that the run writes into its folder."""
        if self.config.ckpt_path and not is_sharded(path := find_checkpoint(self.config.ckpt_path)):
            refuse_other_classes(read_contents(path).class_names, self.datamodule.class_names)
        check_data(self.model, self.datamodule)
        if self.unused and isinstance(self.model.conditioner, Unconditional):
            refuse_unused(self.datamodule, type(self.model.denoiser).__name__)
        rank_zero_info(f"data: {self.datamodule.summary}")
        if self.config.init_from:
            start_from(self.model, self.config.init_from)
        self.folder = self._folder()
        settings = dict(self.config_init["trainer"])
        settings["default_root_dir"] = str(self.folder)
        if settings["logger"] in (None, True):
            settings["logger"] = default_loggers(self.folder)
        extras = [*self._callbacks(settings), *self._display(settings)]
        trainer: Trainer = self._instantiate_trainer(settings, extras)
        refuse_unsupported(trainer.strategy)
        for callback in extras:
            if isinstance(callback, Periodic):
                callback.check(self.model, self.datamodule)
        if self.config.ckpt_path:
            check_resumable(self.model, find_checkpoint(self.config.ckpt_path), trainer.strategy)
        return trainer

    def _callbacks(self, settings: dict[str, Any]) -> list[Callback]:
        """Those of the slots, but for what the trainer's switches turn off."""
        active: list[Callback] = self.config_init["callbacks"].active
        if settings["barebones"]:
            rank_zero_info("trainer.barebones: nothing is averaged, logged or saved")
            off = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
            settings |= dict.fromkeys(off, False) | {"log_every_n_steps": 0}
            return []
        if settings["enable_checkpointing"] is False:
            rank_zero_info("trainer.enable_checkpointing is false: nothing is saved")
            return [callback for callback in active if not isinstance(callback, Checkpoint)]
        return active

    def _display(self, settings: dict[str, Any]) -> list[Callback]:
        """Progress bar and model summary, unless the trainer's switches turn them off."""
        bar = [Progress()] if settings["enable_progress_bar"] is not False else []
        summary = [RichModelSummary(max_depth=2)] if settings["enable_model_summary"] is not False else []
        settings["enable_model_summary"] = False  # Lightning would add its own beside ours, and say so
        return [*bar, *summary]

    def _folder(self) -> Path:
        """A resumed run stays in its own folder; a new one never writes into a used folder."""
        folder, said = self._wanted_folder(), ""
        if self.config.ckpt_path:
            said = f" (resumed from {self.config.ckpt_path})"
        if self.config.ckpt_path and not self.goes_on:
            folder = run_folder(find_checkpoint(self.config.ckpt_path))
        elif not self.goes_on:
            wanted, first = folder, rank_zero_only.rank == 0  # type: ignore[attr-defined]
            folder, self._new = unused_folder(wanted, first_process=first), True
            said = f" ({wanted} exists already)" if folder != wanted else ""
        rank_zero_info(f"run folder: {folder}{said}")
        return folder

    def _wanted_folder(self) -> Path:
        return Path(self.config.run or Path("runs") / run_name(self.config)).expanduser()

    @rank_zero_only
    def make_folder(self) -> None:
        """Make the folder, once, and lock it for this job.

        Raises:
            ValueError: if it cannot be made, another job trains in it, or a run of the same moment has taken it.
        """
        if self._lock is None:
            self._lock = lock_folder(self.folder, self._new)

    def fit(self) -> None:
        """Train, from the start or from where a checkpoint stands.

        Raises:
            ValueError: if another run has taken the folder, or a callback finds that it could not do its work.
        """
        self.make_folder()
        checkpoint = find_checkpoint(self.config.ckpt_path) if self.config.ckpt_path else None
        try:
            self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True)
        finally:
            if self._lock is not None:
                self._lock.close()


def check_data(model: PixelGen, data: ImageData) -> None:
    """Refuse unreadable data, and a model that does not fit the data.

    Raises:
        ValueError: naming the two numbers that disagree.
    """
    data.setup("fit")  # looks at the files
    length = len(data.train_dataset())  # type: ignore[arg-type]
    if length < data.batch_size:
        raise ValueError(f"there are {length} training images, fewer than data.batch_size {data.batch_size}: lower it")
    denoiser = model.denoiser
    if denoiser.image_size != data.image_size:
        raise ValueError(
            f"the data has images of {data.image_size} px, but the denoiser is built for {denoiser.image_size} px: "
            "set data.image_size and the denoiser's input_size to the same number, or leave the latter out"
        )
    if denoiser.in_channels != 3:
        raise ValueError(f"the data has images of 3 channels, but the denoiser's in_channels is {denoiser.in_channels}")
    model.conditioner.check_data(denoiser, data)


def refuse_unused(data: ImageData, denoiser: str) -> None:
    """Refuse labels or captions that an unconditional network would leave unused."""
    if data.captions:
        found, fix = "captions", f"{denoiser} takes none: choose TextJiT with a text_encoder"
    elif data.labelled:
        found, fix = "labels", "nothing says how many classes there are: give data.num_classes or data.class_names"
    else:
        return
    raise ValueError(f"the data has {found}, but {fix}, or --model.denoiser.num_classes null to train without {found}")


def default_loggers(folder: Path) -> list[Logger]:
    """CSV files, and TensorBoard where it is installed, under `<run>/logs`."""
    loggers: list[Logger] = [CSVLogger(folder, name="logs")]
    if find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(folder, name="logs", version=loggers[0].version))
    return loggers


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


def _callback(slot: str) -> str:
    cls = get_args(get_type_hints(Callbacks.__init__)[slot])[0]
    return f"{cls.__module__}.{cls.__name__}"
