"""Folders of image files: ImageNet's layout, and anyone's own pictures."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch.utils.data import Dataset

from pixelgen.checks import checked
from pixelgen.data.captions import Captions, caption_files, caption_paths
from pixelgen.data.decoding import Unusable, read_image
from pixelgen.data.images import ImageData, Item, centre_crop, to_tensor
from pixelgen.data.layout import Layout, find_layout, holds, list_files, loose_files, subfolders
from pixelgen.data.tars import IMAGES

EXTENSIONS = tuple(f".{name}" for name in IMAGES)
IN_A_ROW = 100  # images that cannot be used, after which a folder is given up


def load_rgb(path: str | Path, upright: bool = True) -> Image.Image:
    """Read an image file as RGB (see `read_image`); a ValueError names it if it cannot be read."""
    try:
        return read_image(path, upright=upright)
    except Unusable as verdict:
        raise ValueError(
            f"{path} cannot be read as an image ({verdict.detail}): repair or delete that file"
        ) from verdict


def load_caption(path: Path, captions: Captions, random: Random) -> str:
    """Choose the caption of an image out of the files beside it; `Unusable` if there is none that can be read."""
    try:
        return captions(caption_files(path), random)
    except (OSError, ValueError) as error:
        raise Unusable("no caption", str(error)) from error


@dataclass(eq=False)
class ImageFolderDataset(Dataset[Item]):
    """The images below a folder, or below those of its folders that are classes, centre-cropped.

    The arguments are those of `ImageFolderData`; `class_names` are None for unlabelled images. With `flip`, an image is
    mirrored or not as (seed, key) decides. In the place of an image that cannot be used there is another one, as (seed,
    key) decides: the item's `left_out` names the first. A ValueError if there are no images, or `IN_A_ROW` of them
    cannot be used.
    """

    folder: Path
    class_names: list[str] | None
    image_size: int
    flip: bool = False
    seed: int = 0
    captions: Captions | None = None
    upright: bool = True

    def __post_init__(self) -> None:
        listing = list_files(self.folder, EXTENSIONS)
        if listing.left_out:
            rank_zero_warn(listing.left_out)
        files, labels = listing.files, list[int]()
        if self.class_names is not None:
            files, labels = self._labelled(files, self.class_names)
        if self.captions is not None:
            files = self._captioned(files)
        if not files:
            raise ValueError(f"no images in {self.folder}: put {', '.join(EXTENSIONS)} files there")
        # arrays of bytes, not lists: a worker that touches an object's reference count copies its memory page
        self._files = np.array([os.fsencode(file) for file in files])
        self.labels = np.array(labels)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, key: int) -> Item:
        others = (Random(f"{self.seed}/{key}/{tried}").randrange(len(self)) for tried in range(1, IN_A_ROW))
        item, left_out = self._first(chain([key % len(self)], others), key)
        return item | {"left_out": left_out} if left_out else item

    def __iter__(self) -> Iterator[Item]:
        """One epoch in order."""
        return (self[index] for index in range(len(self)))

    def check(self) -> None:
        """Raise a ValueError about a class without images, or without one among the first that can be used."""
        names = self.class_names or []
        counts = np.bincount(self.labels, minlength=len(names)) if names else [len(self)]
        for name, begin, count in zip(names or [""], np.cumsum([0, *counts]).tolist(), counts, strict=False):
            if count:
                self._first(range(begin, begin + min(count, IN_A_ROW)), begin)
            elif (self.folder / name).is_dir():  # numbers in dataset.json need not all occur
                raise ValueError(f"the class folder {self.folder / name} has no images: add some or remove it")

    def _first(self, indices: Iterable[int], key: int) -> tuple[Item, list[tuple[str, str]]]:
        """The first item at some indices that can be used, and reasons and places of those before it."""
        left_out: list[tuple[str, str]] = []
        for index in indices:
            try:
                return self._item(index, key), left_out
            except Unusable as verdict:
                left_out.append((verdict.reason, f"{os.fsdecode(self._files[index])} ({verdict.detail})"))
        tried = len({place for _, place in left_out})
        raise ValueError(
            f"none of {tried} images tried in {self.folder} can be used, the last for {': '.join(left_out[-1])}: "
            "repair or replace them"
        )

    def _item(self, index: int, key: int) -> Item:
        """The image at an index, with what is random about it decided by a key; `Unusable` if there is none."""
        path = os.fsdecode(self._files[index])
        flip = self.flip and Random((self.seed << 64) + key).random() < 0.5
        item: Item = {"image": to_tensor(centre_crop(read_image(path, upright=self.upright), self.image_size), flip)}
        if self.class_names is not None:
            item["label"] = int(self.labels[index])
        if self.captions is not None:
            item["caption"] = load_caption(Path(path), self.captions, Random(f"{self.seed}/{key}"))
        return item

    def _labelled(self, files: list[str], names: list[str]) -> tuple[list[str], list[int]]:
        """The files of known classes and their classes, class by class."""
        find, known, unknown = label_finder(self.folder, names), list[tuple[int, str]](), list[str]()
        for file in files:
            label = find(file)
            known.append((label, file)) if label is not None else unknown.append(file)
        if unknown:
            what = f"{len(unknown)} of {len(files)} images in {self.folder} are in no folder of a class of training"
            if not known:
                raise ValueError(f"{what} ({unknown[0]}, …): sort them into folders of the same names")
            rank_zero_warn(f"{what} and are left out, the first is {unknown[0]}")
        known.sort(key=itemgetter(0))  # within a class, the order stays
        return [file for _, file in known], [label for label, _ in known]

    def _captioned(self, files: list[str]) -> list[str]:
        """The images with a caption file."""
        missing = {file for file in files if not caption_paths(Path(file))}
        if missing:
            what = (
                f"{len(missing)} of {len(files)} images in {self.folder} have no caption, the first is {min(missing)}"
            )
            if len(missing) == len(files):
                raise ValueError(f"{what}: write a txt or json file of the same name beside each")
            rank_zero_warn(f"{what}: they are left out")
        return [file for file in files if file not in missing]


class ImageFolderData(ImageData):
    """Images in folders, centre-cropped as in ADM.

    Either `root/train/<class>/*.jpg` with or without `root/val/<class>/*.jpg` (ImageNet's layout), or
    `root/<class>/*.jpg`, or `root/*.jpg` without classes (then there are no labels). The sorted names of the class
    folders are the class names. `find_layout` tells what other names `train` and `val` may have; folders that are
    numbered for storage, as those of FFHQ, are no classes, and EDM's `dataset.json` has the labels of its images.
    Files: jpg, png, webp, avif, gif (the first frame), tif, bmp, jp2, ppm, in folders below a class folder too.
    Transparent pixels become white.

    With `captions`, images have texts instead of classes: `x.txt` or `x.json` beside `x.jpg`, at any depth below
    `root`, or `root/train` and `root/val`.

    Images that are damaged, or without a caption that can be read, are left out, counted by reason (`skipped`), and
    logged, the first of each kind with its name: another image of the folder stands in. Validation images of no
    training class are left out, too.

    Args:
        root: The folder.
        image_size: Side of the crops in pixels.
        batch_size: Images per batch and process.
        num_workers: Loading processes per training process.
        seed: Fixes the order of the samples and the flips.
        flip: Mirror half of the training images left to right. No published PixelGen recipe does.
        captions: How captions are chosen and changed; null for none.
        upright: Turn images as their EXIF orientation asks for. ADM and the published recipes do not.

    Raises:
        ValueError: If the folder is missing, holds no images, has an empty class folder, both images and class
            folders, or a class without images that can be read.
    """

    @checked()
    def __init__(
        self,
        root: str | Path,
        image_size: int = 256,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = False,
        captions: Captions | None = None,
        upright: bool = True,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        self.root, self.flip, self.upright = Path(root).expanduser(), flip, upright
        if not str(root).strip() or not self.root.is_dir():
            problem = "does not exist" if str(root).strip() and not self.root.exists() else "is no folder"
            raise ValueError(f"the image folder {root} {problem}: set root to the folder of your images")
        self._layout = find_layout(self.root, EXTENSIONS)
        self.captions, self._captions = captions is not None, captions
        self.class_names = None if self.captions else class_folders(self._layout.train)
        self._train: ImageFolderDataset | None = None
        self._val: ImageFolderDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """List the files, and find one of each class that can be used."""
        self.train_dataset(), self.val_dataset()

    def train_dataset(self) -> ImageFolderDataset:
        """The training images."""
        if self._train is None:
            for note in self._layout.notes:
                rank_zero_warn(note)
            self._train = self._dataset(self._layout.train, self.flip)
            self._train.check()
        return self._train

    def val_dataset(self) -> ImageFolderDataset | None:
        """The images for validation, never mirrored; None if there are none, or none with a label."""
        if self._val is None and self._layout.val is not None:
            try:
                val = self._dataset(self._layout.val, False)
                val[0]
                self._val = val
            except ValueError as error:
                rank_zero_warn(f"there is no validation: {error}")
                self._layout = Layout(self._layout.train)
        return self._val

    def _dataset(self, folder: Path, flip: bool) -> ImageFolderDataset:
        options = (self.image_size, flip, self.seed, self._captions, self.upright)
        return ImageFolderDataset(folder, self.class_names, *options)

    def _extent(self, dataset: Any) -> str:
        """How many images there are, and where, in words."""
        return f"{super()._extent(dataset)} in {dataset.folder}"


def class_folders(folder: Path) -> list[str] | None:
    """Sorted names of the class folders; None for images directly in `folder`, or in folders that are no classes.

    Where EDM's `dataset.json` has labels, the names are their numbers. A ValueError if there are no images, or both
    images and class folders.
    """
    if numbers := _numbered_labels(folder):
        return [str(number) for number in range(1 + max(numbers.values()))]
    folders, loose = subfolders(folder), next(loose_files(folder, EXTENSIONS), None)
    filled = next((path.name for path in folders if holds(path, EXTENSIONS)), None)
    if filled and loose:
        raise ValueError(
            f"{folder} holds both images ({os.path.basename(loose)}) and folders ({filled}): move the images into "
            "class folders, or the folders away for unlabelled training"
        )
    if not filled and not loose:
        others = list_files(folder, EXTENSIONS).left_out
        raise ValueError(
            f"no images in {folder}: put {', '.join(EXTENSIONS)} files there, or one folder per class"
            + (f" ({others})" if others else "")
        )
    if filled and all(map(_is_storage, folders)):
        rank_zero_warn(f"the numbered folders in {folder} share out one set of files: they are taken for no classes")
        return None
    return [path.name for path in folders] if filled else None


def label_finder(folder: Path, names: Sequence[str]) -> Callable[[str], int | None]:
    """What knows the class of a file below a folder, by its path: the class folder it is in, or `dataset.json`."""
    begin = len(os.path.join(folder, ""))
    if numbers := _numbered_labels(folder):
        return lambda file: numbers.get(Path(file[begin:]).as_posix())
    order = {name: number for number, name in enumerate(names)}
    return lambda file: order.get(file[begin:].partition(os.sep)[0])


def _numbered_labels(folder: Path) -> dict[str, int] | None:
    """The labels in the `dataset.json` of EDM and StyleGAN, by path; None without such a file, or labels in it."""
    path = folder / "dataset.json"
    try:
        fields: Any = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): repair or remove that file") from error
    try:
        return {str(name): int(number) for name, number in fields["labels"]} or None
    except (KeyError, TypeError, ValueError):  # no labels, or something else of that name
        return None


def _is_storage(folder: Path) -> bool:
    """Whether a folder holds the files of a range of numbers, as in FFHQ, EDM and img2dataset: 01000/01042.png."""
    first = next(loose_files(folder, EXTENSIONS), "")
    number = re.fullmatch(r"(?:img)?(\d+)", Path(first).stem)
    if number is None or not re.fullmatch(r"\d{4,}", folder.name):
        return False
    return number[1].startswith(folder.name) or int(number[1]) // 1000 * 1000 == int(folder.name)
