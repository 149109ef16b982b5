"""`python -m pixelgen.encode SHARDS --to FOLDER --text_encoder ENCODER`: shards with precomputed text states."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning import Fabric
from lightning.fabric.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save

from pixelgen.cli.training import stop_on_bad_input
from pixelgen.config import one_sentence
from pixelgen.data import Captions
from pixelgen.data.decoding import Unusable, caption_of, image_of, random_of
from pixelgen.data.shards import ENCODER
from pixelgen.data.tars import (
    Sample,
    SkipCounts,
    expand_shards,
    finish_folder,
    read_shard,
    unfinished_folder,
    write_sample,
)
from pixelgen.distributed.launch import launch
from pixelgen.encoders import TextEncoder
from pixelgen.samples.generate import agreement

STATES = ("safetensors", "npy")  # files of earlier states, which are not copied
NAMED = 10  # samples that the report names


@dataclass
class Encoded:
    """What has become of some shards: how many were written now and before, and what was left out and why."""

    folder: Path
    shards: int = 0
    samples: int = 0
    kept: int = 0
    left_out: list[str] = field(default_factory=list)

    def __add__(self, other: Encoded) -> Encoded:
        """What two processes have done."""
        left_out = [*self.left_out, *other.left_out]
        counts = self.shards + other.shards, self.samples + other.samples, self.kept + other.kept
        return Encoded(self.folder, *counts, left_out)


class _LeftOut(SkipCounts):
    """Remembers the place of each."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.places: list[str] = []

    def add(self, reason: str, place: str) -> None:
        super().add(reason, place)
        self.places.append(f"{place}: {reason}")


def encode(
    shards: Sequence[str],
    to: Path,
    text_encoder: TextEncoder,
    captions: Captions | None = None,
    batch_size: int = 64,
    seed: int = 0,
    devices: int = 1,
) -> Encoded:
    """Write a tar for each tar of image-text shards that has the text states of each sample in a safetensors file.

    All other files are copied. States can belong to one caption only: of several, one is chosen for good, as
    `ShardData` with the same seed chooses it in its first pass; its text stands in the metadata of the states. They
    have the precision of the encoder. Samples without a sound image and a caption are left out and named. The
    encoder's settings go to `text_states.json` beside the shards. Everything is written to `<to>.unfinished`, which
    gets its name when all is done: the same command goes on from the tars that are complete.

    Args:
        shards: paths or URLs as for `ShardData`.
        to: folder of the new shards; it must not exist, or be empty.
        text_encoder: makes the states.
        captions: how captions are chosen and changed; null for as they stand: the text file, or the field `caption`.
        batch_size: prompts encoded at a time.
        seed: decides between captions.
        devices: processes, each on a GPU if there are any; they share out the tars.

    Raises:
        ValueError: if the target is used, nothing can be encoded, or two tars have the same name.
    """
    sources = _by_name(shards)
    captions = captions or Captions(prefix_probability=0)
    fabric = launch(devices, "32-true")
    text_encoder.to(fabric.device)
    settings = {**text_encoder.settings, "captions": vars(captions), "seed": seed}
    with agreement(fabric):
        unfinished = unfinished_folder(to)
        if fabric.global_rank == 0:
            _prepare(unfinished, settings)
    fabric.barrier()
    encoded, left_out = Encoded(to), _LeftOut()
    with agreement(fabric), _progress(fabric, len(sources)) as advance:
        for name in list(sources)[fabric.global_rank :: fabric.world_size]:
            path = unfinished / name
            encoded.kept += path.exists()
            if not path.exists():
                samples = _batches(sources[name], captions, seed, batch_size, left_out)
                encoded.samples += (written := _write(path, samples, text_encoder, advance))
                encoded.shards += written > 0
            advance(0)
    encoded.left_out = left_out.places
    encoded = sum((fabric.broadcast(encoded, src=rank) for rank in range(fabric.world_size)), Encoded(to))
    if not encoded.shards + encoded.kept:
        raise ValueError(f"nothing in the shards can be encoded: {(encoded.left_out or ['they are empty'])[0]}")
    if fabric.global_rank == 0:
        finish_folder(to)
    fabric.barrier()
    return encoded


def _by_name(shards: Sequence[str]) -> dict[str, str]:
    """The source tars by the names that their copies get."""
    sources: dict[str, str] = {}
    for shard in (shard for pattern in shards for shard in expand_shards(pattern)):
        name = shard.rpartition("/")[2].partition(".tar")[0] + ".tar"
        if name in sources:
            raise ValueError(f"{sources[name]} and {shard} have the same name: encode them into two folders")
        sources[name] = shard
    return sources


def _prepare(unfinished: Path, settings: Mapping[str, Any]) -> None:
    """Keep what the same settings have written; otherwise start anew."""
    record, text = unfinished / ENCODER, json.dumps(settings, indent=2) + "\n"
    if not (record.is_file() and record.read_text() == text):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        record.write_text(text)


def _batches(
    shard: str, captions: Captions, seed: int, batch_size: int, left_out: SkipCounts
) -> Iterator[list[tuple[Sample, str]]]:
    """Usable samples of a shard with their prompts, so many at a time; images are tried by several threads."""

    def prompt(sample: Sample) -> str | Unusable:
        try:
            image_of(sample.files)
            return caption_of(sample.files, captions, random_of(sample, seed))
        except Unusable as verdict:
            return verdict

    samples = read_shard(shard, left_out)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(samples, batch_size)):
            usable = []
            for sample, found in zip(batch, pool.map(prompt, batch), strict=True):
                if isinstance(found, str):
                    usable.append((sample, found))
                else:
                    left_out.add(found.reason, f"{sample.key} in {shard} ({found.detail})")
            yield usable


def _write(
    path: Path, batches: Iterator[list[tuple[Sample, str]]], encoder: TextEncoder, advance: Callable[[int], None]
) -> int:
    """Write a tar under a temporary name, which is replaced when it is whole; the number of its samples."""
    unfinished, written = path.with_name(f".{path.name}.unfinished"), 0
    try:
        with tarfile.open(unfinished, "w") as tar:
            for batch in filter(None, batches):
                states = encoder([prompt for _, prompt in batch]).cpu()
                for (sample, prompt), own in zip(batch, states, strict=True):
                    files = {name: content for name, content in sample.files.items() if name not in STATES}
                    write_sample(tar, sample.key, files | {"safetensors": save({"text": own}, {"caption": prompt})})
                written += len(batch)
                advance(len(batch))
        if written:
            unfinished.replace(path)
        else:
            unfinished.unlink()
    except OSError as error:
        raise ValueError(f"could not write {path} ({error}): free some space, then the same command goes on") from error
    return written


@contextmanager
def _progress(fabric: Fabric, shards: int) -> Iterator[Callable[[int], None]]:
    """A bar on rank 0 over the shards of all processes; call it with a number of samples, or 0 after a shard."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=fabric.global_rank != 0) as bar:
        task = bar.add_task("shards", total=shards, speed="")
        samples = 0

        def advance(number: int) -> None:
            nonlocal samples
            samples += number
            elapsed = bar.tasks[task].elapsed or 0.0
            speed = f"{samples * fabric.world_size / elapsed:.0f} prompts/s" if elapsed else ""
            bar.update(task, advance=0 if number else fabric.world_size, speed=speed)

        yield advance


# --- command line


def main(args: Sequence[str] | None = None) -> Encoded:
    """Encode as the options say; see `python -m pixelgen.encode --help`."""
    parser = ArgumentParser(prog="python -m pixelgen.encode", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("shards", nargs="+", help="paths or URLs of the tars, or their folders")
    parser.add_function_arguments(encode, skip={"shards"})
    with stop_on_bad_input():
        encoded = encode(**_parse(parser, list(sys.argv[1:] if args is None else args)))
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    console = Console(soft_wrap=True, markup=False, quiet=rank != 0)
    before = f", {encoded.kept} shards were complete before" if encoded.kept else ""
    console.print(f"{encoded.samples} samples in {encoded.shards} shards written{before}: {encoded.folder}")
    if encoded.left_out:
        console.print(f"{len(encoded.left_out)} were left out:", *encoded.left_out[:NAMED], sep="\n  ")
    return encoded


def _parse(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    try:
        return vars(parser.instantiate(parser.parse_args(arguments)))
    except (ArgumentError, ValueError) as error:
        if "arguments are required" in str(error):
            raise ValueError(
                "give the shards, --to and --text_encoder, as in python -m pixelgen.encode data/shards "
                "--to data/encoded --text_encoder pixelgen.encoders.minilm"
            ) from error
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(one_sentence(error, flags)) from error


if __name__ == "__main__":
    main()
