"""`python -m pixelgen.data.pack FOLDER --to SHARDS`: a folder of images as tar shards for `ShardData`."""

import io
import json
import sys
import tarfile
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from random import Random
from typing import Literal

from jsonargparse import ArgumentParser
from PIL import Image
from rich.console import Console
from rich.progress import track

from pixelgen.config import one_sentence
from pixelgen.data.captions import caption_paths, json_fields, read_caption
from pixelgen.data.decoding import Unusable, read_image
from pixelgen.data.folder import EXTENSIONS, class_folders, label_finder
from pixelgen.data.layout import find_layout, list_files
from pixelgen.data.shards import CLASSES, class_lines
from pixelgen.data.tars import MAX_BYTES, check_unused, write_sample
from pixelgen.files import publish, remove, sole_writer

KEPT = ("jpg", "jpeg", "png", "webp")  # that every reader of shards knows
NAMED = 10  # files that the report names


@dataclass
class Packed:
    """What has become of a folder: the shards, how many images are in them, what was left out and why."""

    folder: Path
    shards: int = 0
    images: int = 0
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # of how the folder was read


def pack(
    folder: Path,
    to: Path,
    shard_mb: float = 256,
    size: int | None = None,
    encoding: Literal["jpg", "png", "webp"] | None = None,
    seed: int = 0,
    upright: bool = True,
) -> Packed:
    """Write the images of a folder into tar shards, in a random order.

    Of a folder with `train` and `val` (see `find_layout`), the images for training are packed; pack `val` by itself. An
    image's caption is the txt or json file of the same name (`x.jpg`, `x.txt`). If no image has one, the folders are
    classes: samples have number and name, and the sorted names go to `classes.txt` beside the shards. Every image is
    decoded once; damaged ones, and those without a caption that can be read where others have one, are left out and
    named. The folder gets its name when all is done: what was interrupted is started again.

    Args:
        folder: where the images are: files as `ImageFolderData` reads them, at any depth.
        to: folder of the shards; it must not exist, or be empty.
        shard_mb: a shard ends when it holds so many megabytes.
        size: shrink images whose shorter side has more pixels to so many, and encode them anew; null keeps the files.
        encoding: of what is encoded anew, and for all images if given; null for jpg of quality 95. Files other than
            jpg, png and webp are always encoded anew.
        seed: of the order.
        upright: turn what is encoded anew as its EXIF orientation asks for; files that are kept keep it.

    Raises:
        ValueError: if the target is used, in the folder or being written, sizes make no sense, there are no images, or
            none can be packed.
    """
    if shard_mb <= 0 or (size is not None and size < 1):
        raise ValueError(f"shard_mb is {shard_mb} and size {size}: give a positive number, and at least 1")
    if not folder.is_dir():
        raise ValueError(f"there are no images in {folder}: give a folder of images")
    if to.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{to} is in {folder} itself, whose images are read again later: give a folder elsewhere")
    check_unused(to)
    layout = find_layout(folder, EXTENSIONS)
    listing = list_files(layout.train, EXTENSIONS)
    files = listing.files
    captioned = any(caption_paths(Path(file)) for file in files)
    names = None if captioned else class_folders(layout.train)
    listed = "".join(f"{name}\n" for name in names or ()).encode(errors="replace").decode()
    if class_lines(listed) != (names or []):
        raise ValueError(f"a class folder in {folder} has a name that is not one line of text: rename it")
    find = label_finder(layout.train, names or ())
    val = "" if layout.val is None else f"{layout.train} was packed, {layout.val} was not: pack it into another folder"

    def sample(path: Path) -> dict[str, bytes]:
        beside = _readable_captions(path) if captioned else {}
        if names is not None:
            number = find(str(path))
            if number is None:
                raise Unusable("no label")
            about = {"label": number, "class_name": names[number]}
            beside = {"cls": str(number).encode(), "json": json.dumps(about).encode()}
        return _encoded(path, size, encoding, upright) | beside

    Random(seed).shuffle(files)
    packed = Packed(to, notes=[note for note in (*layout.notes, val, listing.left_out) if note])
    unfinished = to.with_name(f"{to.name}.unfinished")
    with sole_writer(to):
        check_unused(to)
        remove(unfinished)
        unfinished.mkdir()
        _write(_samples(files, sample, packed.left_out), unfinished, int(shard_mb * 1e6), packed)
        if not packed.images:
            remove(unfinished)
            raise ValueError(f"none of the {len(files)} images in {folder} can be packed: {packed.left_out[0]}")
        if names is not None:
            (unfinished / CLASSES).write_text(listed, encoding="utf-8")
        publish(unfinished, to)
    return packed


def _samples(
    files: Sequence[str], sample: Callable[[Path], dict[str, bytes]], left_out: list[str]
) -> Iterator[dict[str, bytes]]:
    """The files of each image's sample by extension; what cannot be used is added to `left_out`."""
    for file in track(files, "Packing", console=Console(stderr=True)):
        try:
            yield sample(Path(file))
        except Unusable as verdict:
            left_out.append(f"{file}: {verdict}")


def _readable_captions(path: Path) -> dict[str, bytes]:
    """Those of an image's caption files that hold something, text or fields of json; `Unusable` if none does."""
    kept = {}
    for extension, file in caption_paths(path).items():
        with suppress(ValueError, OSError):
            content = read_caption(file)
            if json_fields(content) if extension == "json" else content.decode("utf-8-sig").strip():
                kept[extension] = content
    if not kept:
        raise Unusable("no caption")
    return kept


def _encoded(path: Path, size: int | None, encoding: str | None, upright: bool) -> dict[str, bytes]:
    """The bytes of an image by its extension, those of the file where nothing is to be changed."""
    image, extension = read_image(path, upright=upright), path.suffix[1:].lower()
    if size is not None and min(image.size) > size:
        scale = size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    elif extension in KEPT and encoding is None:
        if (held := path.stat().st_size) > MAX_BYTES:
            raise Unusable("beyond limits", f"a file of {held} bytes")
        return {extension: path.read_bytes()}
    file = io.BytesIO()
    image.save(file, "JPEG" if encoding in (None, "jpg") else encoding.upper(), quality=95)
    return {encoding or "jpg": file.getvalue()}


def _write(samples: Iterator[dict[str, bytes]], folder: Path, limit: int, packed: Packed) -> None:
    """Tars of at most `limit` bytes of files and one sample."""
    for first in samples:
        with tarfile.open(folder / f"{packed.shards:05d}.tar", "w") as tar:
            held = 0
            for files in chain([first], samples):
                write_sample(tar, f"{packed.images:08d}", files)
                packed.images += 1
                held += sum(map(len, files.values()))
                if held >= limit:
                    break
        packed.shards += 1


def main(args: Sequence[str] | None = None) -> Packed:
    """Pack as the options say; see `python -m pixelgen.data.pack --help`."""
    parser = ArgumentParser(prog="python -m pixelgen.data.pack", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("folder", type=Path, help="where the images are")
    parser.add_function_arguments(pack, skip={"folder"})
    try:
        packed = pack(**parser.parse_args(args))
    except (ArgumentError, ValueError) as error:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        sys.stderr.write(f"error: {one_sentence(error, flags)}\n")
        raise SystemExit(2) from error
    console = Console(soft_wrap=True, markup=False)
    console.print(f"{packed.images} images in {packed.shards} shards in {packed.folder}")
    for note in packed.notes:
        console.print(note)
    if packed.left_out:
        console.print(f"{len(packed.left_out)} images were left out:", *packed.left_out[:NAMED], sep="\n  ")
    return packed


if __name__ == "__main__":
    main()
