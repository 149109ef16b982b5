"""Files of weights: where they lie, what they hold, and how exports are written."""

import json
import re
import shutil
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from pixelgen.encoders.hub import tensors_sha256
from pixelgen.files import atomic
from pixelgen.runs.published import Contents, Weights, below, convert_keys

EXPORT = "model.safetensors"
EXPORT_FORMAT = "pixelgen-1"  # the file's metadata has it beside the name of its `average` and the `step`


def find_checkpoint(source: str | Path) -> Path:
    """The checkpoint that `find_weights` finds; an export is refused, since it cannot be resumed."""
    path = find_weights(source)
    if _is_export(path):
        raise ValueError(f"{path} holds weights only, not what resuming needs: start a new run with --init_from")
    return path


def find_weights(source: str | Path) -> Path:
    """The checkpoint or export that a path stands for: the file itself, or the one in a run or export folder."""
    if not str(source).strip():
        raise ValueError("the path of the run is empty: give a run folder, a checkpoint file, or an export")
    path = Path(source).expanduser()
    if path.is_file() or is_sharded(path):
        return path
    for file in (path / "checkpoints" / "last.ckpt", path / EXPORT):
        if file.exists():
            return file
    what = f"has neither checkpoints/last.ckpt nor {EXPORT}" if path.is_dir() else "does not exist"
    raise ValueError(f"{path} {what}: give a run folder with a saved checkpoint, a checkpoint file, or an export")


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint is a folder with the shards of each process."""
    return (path / "meta.pt").is_file()


def run_folder(path: Path) -> Path:
    """The folder with the config of a checkpoint or export: the run that it lies in, or the export's own."""
    # download caches link the files of an export to elsewhere, each on its own
    folder = path.absolute().parent if _is_export(path) else path.resolve().parent.parent
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{path} has no {folder / 'config.yaml'}: keep checkpoints in their run, exports with theirs")
    return folder


def _is_export(path: Path) -> bool:
    return path.suffix == ".safetensors"


def read_contents(path: Path) -> Contents:
    """Contents of a checkpoint or export, on the CPU; tensors and primitives only, nothing in it is executed.

    Tensors are mapped from the file where its format allows it: what nobody uses is never read.

    Raises:
        ValueError: if the file is not a complete checkpoint or export, or needs Python objects.
    """
    try:
        if _is_export(path):
            return _read_export(path)
        if is_sharded(path):
            checkpoint: Any = read_shards(path)
        else:
            _refuse_damaged(path)
            with torch.serialization.safe_globals([Namespace]):  # JiT keeps its arguments in one; it runs nothing
                checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = f"is not a readable checkpoint or export ({type(error).__name__}: {error})"
        if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = (
                f"holds Python objects that cannot be loaded safely ({unsafe[1]}, …): save its state dicts alone, "
                "once and in a sandbox, as docs/published.md shows"
            )
        raise ValueError(f"{path} {reason}") from error
    try:
        if (published := convert_keys(checkpoint)) is not None:
            return published
        state, ema = checkpoint["state_dict"], checkpoint.get("callbacks", {}).get("EMA", {})
        raw, objective, averages = below("denoiser.", state), below("objective.", state), ema.get("averages", {})
        if not all(isinstance(value, Tensor) for part in (raw, *averages.values()) for value in part.values()):
            raise TypeError
    except (AttributeError, KeyError, TypeError) as error:  # something else, or of other types
        raise ValueError(f"{path} is not a checkpoint of pixelgen, nor a published one of PixelGen or JiT") from error
    step, names = checkpoint.get("global_step"), _names(checkpoint.get("class_names"))
    return Contents(raw, averages, objective, step, ema.get("step"), class_names=names)


def _refuse_damaged(path: Path) -> None:
    """Compare what a file holds with its checksums, which torch writes but does not look at."""
    if is_zipfile(path):
        with ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it is damaged, its checksum is wrong: copy it again, or take another")


def _names(stored: Any) -> list[str] | None:
    """Names of classes as a file holds them."""
    return [str(name) for name in stored] if isinstance(stored, list) else None


def _read_export(path: Path) -> Contents:
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        if about.get("format") != EXPORT_FORMAT:
            raise ValueError(f"its format is {about.get('format')!r}, not {EXPORT_FORMAT!r}")
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no dict
        if about.get("sha256", found := tensors_sha256(weights)) != found:
            raise ValueError("its weights are damaged, their checksum is wrong: copy it again, or export anew")
    step, names = about["step"], _names(json.loads(about.get("class_names", "null")))
    return Contents({}, {about["average"]: weights}, step=int(step) if step.isdecimal() else None, class_names=names)


def read_shards(path: Path) -> dict[str, Any]:
    """A checkpoint in shards, put together in one process, without the states of the optimizer."""
    checkpoint: dict[str, Any] = torch.load(path / "meta.pt", map_location="cpu", weights_only=True)
    stored, prefix = FileSystemReader(path).read_metadata().state_dict_metadata, "state_dict."
    weights: dict[str, Any] = {
        key: torch.empty(found.size, dtype=found.properties.dtype)
        for key, found in stored.items()
        if key.startswith(prefix) and isinstance(found, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is distributed here
        load(weights, checkpoint_id=path, no_dist=True)
    return checkpoint | {"state_dict": {key[len(prefix) :]: value for key, value in weights.items()}}


def refuse_used(folder: Path) -> None:
    """Refuse to write an export into a folder that holds one, or a config."""
    if taken := [name for name in (EXPORT, "config.yaml") if (folder / name).exists()]:
        raise ValueError(f"{folder} holds {' and '.join(taken)} already: give another folder as --to")


def write_export(
    folder: Path, weights: Weights, identity: dict[str, Any], config: str, class_names: Sequence[str] | None
) -> Path:
    """Write weights of a denoiser as an export, and the text of a config beside them; both or nothing.

    `identity` is the name of the EMA and the step, as `Run.identity` says it; names of classes are kept if known.
    """
    about = {"format": EXPORT_FORMAT, **{key: str(value) for key, value in identity.items()}}
    about |= {"class_names": json.dumps(class_names)} if class_names else {}
    # copies, since the format allows neither tied nor strided ones
    copies = {key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
    about["sha256"] = tensors_sha256(copies)
    fix = "free some space or give another --to"
    with atomic(folder / EXPORT, fix) as file, atomic(folder / "config.yaml", fix) as text:  # the config comes first
        text.write_text(config, encoding="utf-8")
        try:
            save_file(copies, file, about)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        shutil.copymode(text, file)  # safetensors lets nobody but the owner read its files
    return folder / EXPORT
