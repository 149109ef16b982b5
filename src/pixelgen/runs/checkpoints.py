"""Files of weights: where they lie, what they hold, and how exports are written."""

import json
import re
import shutil
from argparse import Namespace
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixelgen.encoders.hub import tensors_sha256
from pixelgen.files import atomic, load_tensors, what_is
from pixelgen.runs.published import Contents, Weights, below, convert_keys, plain_keys
from pixelgen.runs.shards import is_sharded, read_shards

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
    if not isinstance(source, str | Path) or not str(source).strip():
        raise ValueError(f"{source!r} is no path: give a run folder, a checkpoint file, or an export")
    path = Path(source).expanduser()
    if path.is_file() or is_sharded(path):
        return path
    for file in (path / "checkpoints" / "last.ckpt", path / EXPORT):
        if file.exists():
            return file
    what = f"has neither checkpoints/last.ckpt nor {EXPORT}" if path.is_dir() else "does not exist"
    raise ValueError(f"{path} {what}: give a run folder with a saved checkpoint, a checkpoint file, or an export")


def holds_weights(path: str | Path) -> bool:
    """Whether `find_weights` finds something at a path."""
    try:
        find_weights(path)
    except ValueError:
        return False
    return True


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

    Tensors are mapped from the file where its format allows it: what nobody uses is never read. The prefixes `module.`
    and `_orig_mod.`, which DDP and torch.compile add to names, are left out.

    Raises:
        ValueError: if the file is not a complete checkpoint or export, or needs Python objects.
    """
    if path.suffix in (".yaml", ".yml"):
        raise ValueError(f"{path} is a config: give the folder of a run, a checkpoint or an export")
    try:
        if _is_export(path):
            return _checked(_read_export(path), path)
        if is_sharded(path):
            checkpoint: Any = read_shards(path)
        else:
            about = path.stat()
            _refuse_damaged(path, about.st_size, about.st_mtime_ns)
            with torch.serialization.safe_globals([Namespace]):  # JiT keeps its arguments in one; it runs nothing
                checkpoint = load_tensors(path, mmap=is_zipfile(path))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = f"is not a readable checkpoint or export ({error}{what_is(path) if _is_export(path) else ''})"
        if "Python objects" in str(error):
            fix = "save its state dicts alone, once and in a sandbox, as docs/published.md shows"
            reason = f"{str(error).removeprefix('it ')}: {fix}"
        raise ValueError(f"{path} {reason}") from error
    return _checked(_contents(checkpoint, path), path)


def _contents(checkpoint: Any, path: Path) -> Contents:
    """What a checkpoint holds; a ValueError if it is no checkpoint of ours nor a published one."""
    try:
        checkpoint = {key: plain_keys(part) for key, part in checkpoint.items()}
        if (published := convert_keys(checkpoint)) is not None:
            return published
        state, ema = checkpoint["state_dict"], checkpoint.get("callbacks", {}).get("EMA", {})
        averages = {name: plain_keys(weights) for name, weights in ema.get("averages", {}).items()}
        raw, objective = below("denoiser.", state), below("objective.", state)
        step, names = checkpoint.get("global_step"), _names(checkpoint.get("class_names"))
        return Contents(raw, averages, objective, step, ema.get("step"), class_names=names)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a checkpoint of pixelgen, nor a published one of PixelGen or JiT") from error


def _checked(contents: Contents, path: Path) -> Contents:
    """Refuse weights that are none, and names that could lead out of a folder: results are called after them."""
    for name, weights in {"raw": contents.raw, **contents.averages}.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
            raise ValueError(f"{path} holds an EMA called {name!r}: a name has letters, digits and .+-_ alone")
        if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
            raise ValueError(
                f"{path} is damaged, or made by something else: its weights {name} are not tensors by name"
            )
    if not all(isinstance(step, int | None) for step in (contents.step, contents.ema_step)):
        raise ValueError(f"{path} is damaged, or made by something else: its step is {contents.step!r}")
    return contents


@cache
def _refuse_damaged(path: Path, size: int, time: int) -> None:
    """Compare what a file of now holds with its checksums, which torch writes but does not look at; once a version."""
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
        if "sha256" in about and about["sha256"] != tensors_sha256(weights):
            raise ValueError("its weights are damaged, their checksum is wrong: copy it again, or export anew")
    step, names = about["step"], _names(json.loads(about.get("class_names", "null")))
    return Contents({}, {about["average"]: weights}, step=int(step) if step.isdecimal() else None, class_names=names)


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
