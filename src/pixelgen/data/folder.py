"""Folders of image files: ImageNet's layout, and anyone's own pictures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from pixelgen.checks import checked
from pixelgen.data.captions import Captions, caption_files
from pixelgen.data.images import ImageData, Item, centre_crop, to_rgb, to_tensor

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def load_rgb(path: str | Path) -> Image.Image:
    """Read an image file as RGB (see `to_rgb`); a ValueError names it if it cannot be read."""
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): repair or delete that file") from error


def load_caption(path: Path, captions: Captions, random: Random) -> str:
    """Choose the caption of an image out of the files beside it; a ValueError names the image if there is none."""
    try:
        return captions(caption_files(path), random)
    except ValueError as error:
        raise ValueError(f"{path} has no caption ({error}): write one into {path.stem}.txt beside it") from error


@dataclass(eq=False)
class ImageFolderDataset(Dataset[Item]):
    """The images below a folder, or below those of its folders that are classes, centre-cropped.

    The arguments are those of `ImageFolderData`; `class_names` are None for unlabelled images. With `flip`, an image is
    mirrored or not as (seed, key) decides. The first image of each class is tried; a ValueError says what is wrong.
    """

    folder: Path
    class_names: list[str] | None
    image_size: int
    flip: bool = False
    seed: int = 0
    captions: Captions | None = None

    def __post_init__(self) -> None:
        files, labels = self._labelled_files()
        if self.captions is not None:
            self._check_captions(files, self.captions)
        # arrays of bytes, not lists: a worker that touches an object's reference count copies its memory page
        self._files = np.array([os.fsencode(file) for file in files])
        self._labels = np.array(labels)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, key: int) -> Item:
        index = key % len(self)
        path = os.fsdecode(self._files[index])
        flip = self.flip and Random((self.seed << 64) + key).random() < 0.5
        item: Item = {"image": to_tensor(centre_crop(load_rgb(path), self.image_size), flip)}
        if self.class_names is not None:
            item["label"] = int(self._labels[index])
        if self.captions is not None:
            item["caption"] = load_caption(Path(path), self.captions, Random(f"{self.seed}/{key}"))
        return item

    def __iter__(self) -> Iterator[Item]:
        """One epoch in order."""
        return (self[index] for index in range(len(self)))

    def _labelled_files(self) -> tuple[list[str], list[int]]:
        """All files and their classes, if there are any, after trying the first image of each class."""
        folder, names = self.folder, self.class_names
        if names is None:
            files = list_images(folder)
            if not files:
                raise ValueError(f"no images in {folder}: put {', '.join(EXTENSIONS)} files there")
            load_rgb(files[0])
            return files, []
        found: list[str] = []
        labels: list[int] = []
        for name in class_folders(folder) or ():
            if name not in names:
                raise ValueError(f"{folder / name} is a class without training images: remove it or add it to train")
            files = list_images(folder / name)
            if not files:
                raise ValueError(f"the class folder {folder / name} has no images: add some or remove the folder")
            load_rgb(files[0])
            found += files
            labels += [names.index(name)] * len(files)
        if not found:
            raise ValueError(
                f"{folder} has no class folders although the training images have: sort its images likewise"
            )
        return found, labels

    def _check_captions(self, files: list[str], captions: Captions) -> None:
        """Refuse images without caption files, after reading the first."""
        missing = [file for file in files if not any(Path(file).with_suffix(e).is_file() for e in (".txt", ".json"))]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(files)} images in {self.folder} have no caption, the first is {missing[0]}: "
                "write a txt or json file of the same name beside each, or remove them"
            )
        load_caption(Path(files[0]), captions, Random(0))


class ImageFolderData(ImageData):
    """Images in folders, centre-cropped as in ADM.

    Either `root/train/<class>/*.jpg` with or without `root/val/<class>/*.jpg` (ImageNet's layout), or
    `root/<class>/*.jpg`, or `root/*.jpg` without classes (then there are no labels). The sorted names of the class
    folders are the class names. Files: jpg, jpeg, png, webp, bmp, in folders below a class folder too. Transparent
    pixels become white.

    With `captions`, images have texts instead of classes: `x.txt` or `x.json` beside `x.jpg`, at any depth below
    `root`, or `root/train` and `root/val`.

    Args:
        root: The folder.
        image_size: Side of the crops in pixels.
        batch_size: Images per batch and process.
        num_workers: Loading processes per training process.
        seed: Fixes the order of the samples and the flips.
        flip: Mirror half of the training images left to right. No published PixelGen recipe does.
        captions: How captions are chosen and changed; null for none.

    Raises:
        ValueError: If the folder is missing, holds no images, has an empty class folder, a validation class without
            training images, an unreadable first image in some class, or images without the captions asked for.
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
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        self.root, self.flip = Path(root).expanduser(), flip
        if not self.root.is_dir():
            raise ValueError(f"the image folder {self.root} does not exist: set root to the folder of your images")
        has_train = (self.root / "train").is_dir()
        self._train_root = self.root / "train" if has_train else self.root
        self._val_root = self.root / "val" if has_train and (self.root / "val").is_dir() else None
        self.captions, self._captions = captions is not None, captions
        self.class_names = None if self.captions else class_folders(self._train_root)
        self._datasets: dict[Path, ImageFolderDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """List the files and try the first image of each class."""
        self.train_dataset(), self.val_dataset()

    def train_dataset(self) -> ImageFolderDataset:
        """The training images."""
        return self._dataset(self._train_root, self.flip)

    def val_dataset(self) -> ImageFolderDataset | None:
        """The images under `root/val`, never mirrored; None if there is no such folder."""
        return None if self._val_root is None else self._dataset(self._val_root, False)

    def _dataset(self, folder: Path, flip: bool) -> ImageFolderDataset:
        if folder not in self._datasets:
            options = (self.image_size, flip, self.seed, self._captions)
            self._datasets[folder] = ImageFolderDataset(folder, self.class_names, *options)
        return self._datasets[folder]


def list_images(folder: Path) -> list[str]:
    """Paths of the images anywhere below a folder, sorted; hidden ones (`._x.jpg` of some archives) left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]  # which os.walk then goes into
        found += [os.path.join(parent, name) for name in names if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def class_folders(folder: Path) -> list[str] | None:
    """Sorted names of the class folders; None if the images lie directly in `folder`."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    classes = [entry.name for entry in entries if entry.is_dir()]
    loose = [entry.name for entry in entries if _is_image(entry.name) and entry.is_file()]
    if classes and loose:
        raise ValueError(
            f"{folder} holds both images ({loose[0]}) and folders ({classes[0]}): move the images into class "
            "folders, or the folders away for unlabelled training"
        )
    if not classes and not loose:
        raise ValueError(f"no images in {folder}: put {', '.join(EXTENSIONS)} files there, or one folder per class")
    return classes or None
