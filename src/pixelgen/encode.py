"""`python -m pixelgen.encode SHARDS --to FOLDER --text_encoder ENCODER`: shards with precomputed text embeddings."""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from safetensors.torch import save

from pixelgen.checks import COUNT, FROM_ZERO, checked
from pixelgen.cli.command import command
from pixelgen.data import Captions
from pixelgen.data.decoding import Unusable, caption_of, image_of, random_of
from pixelgen.data.shards import ENCODER
from pixelgen.data.tars import Sample, SkipCounts, check_unused, expand_shards, read_shard, write_sample
from pixelgen.distributed.processes import agree, gather, launch
from pixelgen.encoders import TextEncoder
from pixelgen.files import atomic, publish, remove, sole_writer, write_text
from pixelgen.text import say

EMBEDDINGS = ("safetensors", "npy")  # files of earlier embeddings, which are not copied
NAMED = 10  # samples that the report names


@dataclass(frozen=True)
class Encoded:
    """What has become of some shards: how many were written now and before, and what was left out and why."""

    folder: Path
    shards: int
    samples: int
    kept: int
    left_out: list[str]


class _LeftOut(SkipCounts):
    """Remembers the place of each."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.places: list[str] = []

    def add(self, reason: str, place: str) -> None:
        super().add(reason, place)
        self.places.append(f"{place}: {reason}")


@checked(batch_size=COUNT, seed=FROM_ZERO, devices=COUNT)
def encode(
    shards: Sequence[str],
    *,
    to: str | Path,
    text_encoder: TextEncoder,
    captions: Captions | None = None,
    batch_size: int = 64,
    seed: int = 0,
    devices: int = 1,
) -> Encoded:
    """Copy image-text shards, with the text embeddings of each sample in a safetensors file.

    Embeddings can belong to one caption only: of several, one is chosen for good, as `ShardData` with the same seed
    chooses it in its first pass; its text stands in the metadata of the embeddings. They have the precision of the
    encoder. Samples without an intact image and a caption are left out and named. The encoder's settings go to
    `text_states.json` beside the shards. Everything is written to `<to>.unfinished`, which is renamed when all is
    done: the same command resumes from the tars that are complete.

    Args:
        shards: paths or URLs of the tars as for `ShardData`, or their folders.
        to: folder of the new shards; it must not exist, or be empty.
        text_encoder: computes the embeddings.
        captions: how captions are chosen and changed; null for as they stand: the text file, or the field `caption`.
        batch_size: prompts encoded at a time.
        seed: decides between captions.
        devices: processes, each on a GPU if there are any; they share the tars.

    Raises:
        ValueError: if the target is used or being written, nothing can be encoded, two tars have the same name, or
            embeddings are not finite.
    """
    sources, to = _by_name(shards), Path(to).expanduser()
    captions = captions or Captions(prefix_probability=0)
    fabric = launch(devices, "32-true")
    text_encoder.to(fabric.device)
    unfinished = to.with_name(f"{to.name}.unfinished")
    held = ExitStack()
    with agree():
        if fabric.global_rank == 0:
            held.enter_context(sole_writer(to))
        check_unused(to)
        if fabric.global_rank == 0:
            _prepare(unfinished / ENCODER, {**text_encoder.settings, "captions": vars(captions), "seed": seed})
    with held:
        numbers, kept, left_out = [], [], _LeftOut()
        with agree():
            share = list(sources)[fabric.global_rank :: fabric.world_size]
            for name in track(share, "shards", console=Console(stderr=True), disable=fabric.global_rank != 0):
                if (unfinished / name).exists():
                    kept.append(name)
                else:
                    batches = _batches(sources[name], captions, seed, batch_size, left_out)
                    numbers.append(_write_shard(unfinished / name, batches, text_encoder))
        written, kept, places = [n for n in gather(numbers) if n], gather(kept), gather(left_out.places)
        if not written and not kept:
            raise ValueError(f"nothing in the shards can be encoded: {(places or ['they are empty'])[0]}")
        if fabric.global_rank == 0:
            check_unused(to)
            publish(unfinished, to)
        fabric.barrier()
    return Encoded(to, len(written), sum(written), len(kept), places)


def _by_name(shards: Sequence[str]) -> dict[str, str]:
    """The source tars by the names that their copies get."""
    sources: dict[str, str] = {}
    for shard in (shard for pattern in shards for shard in expand_shards(pattern)):
        name = shard.rpartition("/")[2].partition(".tar")[0] + ".tar"
        if name in sources:
            raise ValueError(f"{sources[name]} and {shard} have the same name: encode them into two folders")
        sources[name] = shard
    return sources


def _prepare(record: Path, settings: Mapping[str, Any]) -> None:
    """Keep what was written with the same settings; otherwise start anew."""
    text = json.dumps(settings, indent=2) + "\n"
    if record.parent.is_symlink() or not record.is_file() or record.read_text() != text:
        remove(record.parent)
        write_text(record, text)


def _batches(
    shard: str, captions: Captions, seed: int, batch_size: int, left_out: SkipCounts
) -> Iterator[list[tuple[Sample, str]]]:
    """Usable samples of a shard with their prompts, so many at a time; images are tried by several threads."""

    def prompt(sample: Sample) -> str | Unusable:
        try:
            image_of(sample.files)
            return caption_of(sample.files, captions, random_of(sample, seed))
        except Unusable as error:
            return error

    samples = read_shard(shard, left_out)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(samples, batch_size)):
            pairs = [*zip(batch, pool.map(prompt, batch), strict=True)]
            for sample, found in pairs:
                if isinstance(found, Unusable):
                    left_out.add(found.reason, f"{sample.key} in {shard} ({found.detail})")
            yield [(sample, found) for sample, found in pairs if isinstance(found, str)]


def _write_shard(path: Path, batches: Iterator[list[tuple[Sample, str]]], encoder: TextEncoder) -> int:
    """Write a tar, unless it would be empty; the number of its samples."""
    usable = (batch for batch in batches if batch)
    if not (first := next(usable, [])):
        return 0
    fix, number = "free some space, then resume with the same command", 0
    with atomic(path, fix) as unfinished, tarfile.open(unfinished, "w") as tar:
        for batch in chain([first], usable):
            embeddings = encoder([prompt for _, prompt in batch]).cpu()
            for (sample, prompt), embedding in zip(batch, embeddings, strict=True):
                if not embedding.isfinite().all():
                    raise ValueError(
                        f"the text embeddings of {sample.key} in {sample.shard} are not finite (NaN or infinite): give "
                        "--text_encoder.dtype bfloat16 or float32, which do not overflow"
                    )
                files = {name: content for name, content in sample.files.items() if name not in EMBEDDINGS}
                write_sample(tar, sample.key, files | {"safetensors": save({"text": embedding}, {"caption": prompt})})
            number += len(batch)
    return number


def _report(encoded: Encoded) -> None:
    before = f", {encoded.kept} shards were complete before" if encoded.kept else ""
    say(f"{encoded.samples} samples in {encoded.shards} shards written{before}: {encoded.folder}")
    if encoded.left_out:
        say(f"{len(encoded.left_out)} were left out:", *(f"  {place}" for place in encoded.left_out[:NAMED]))


main = command(encode, _report)

if __name__ == "__main__":
    main()
