"""Sets of images as they are, to be measured: files in a folder, or the array of an npz."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from pixelgen.data.folder import list_images, load_rgb
from pixelgen.data.images import Item, centre_crop

ARRAY = "arr_0"
OURS = ("settings.json", "grid.png")  # beside the first, the second is an overview and no image of the set


class ImageSet(Dataset[Item]):
    """Images of one size. An item holds the uint8 `image` (3, H, W), or a sentence `problem` about one that does not.

    Args:
        size: (height, width) of the images in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __len__(self) -> int:
        raise NotImplementedError


class ImageFiles(ImageSet):
    """Image files: as they are, all of one size, or centre-cropped as in ADM.

    An item of an unreadable file has a `problem` and `corrupt` True.

    Args:
        files: their paths.
        image_size: side of the crops in pixels; None for no cropping.

    Raises:
        ValueError: if there is no file, or none that can be read.
    """

    def __init__(self, files: Sequence[str], image_size: int | None = None) -> None:
        self._files = np.array([os.fsencode(file) for file in files])  # bytes, for the memory of workers
        self.image_size = image_size
        super().__init__((image_size, image_size) if image_size else self._first_size())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Item:
        path = os.fsdecode(self._files[index])
        try:
            image = load_rgb(path)
        except ValueError as error:
            return {"problem": str(error), "corrupt": True, "path": path}
        if self.image_size is not None:
            image = centre_crop(image, self.image_size)
        if (image.height, image.width) != self.size:
            height, width = self.size
            problem = (
                f"{path} is {image.width}x{image.height} px but the first image is {width}x{height} px: give images "
                "of one size"
            )
            return {"problem": problem, "corrupt": False, "path": path}
        return {"image": torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())}

    def _first_size(self) -> tuple[int, int]:
        for file in self._files:
            try:
                with Image.open(os.fsdecode(file)) as image:
                    return image.height, image.width
            except OSError:
                continue
        raise ValueError(f"none of {len(self._files)} files can be read as an image: {os.fsdecode(self._files[0])}, …")


class ImageArray(ImageSet):
    """The array `arr_0` of an npz, uint8 (N, H, W, 3), as the ADM evaluation suite has it; read where it lies.

    Args:
        path: of the npz.
        image_size: side of centre crops in pixels; None for no cropping.

    Raises:
        ValueError: if the file cannot be read or holds no such array.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        try:
            self._array = _open_array(path)
        except (OSError, ValueError, BadZipFile, EOFError, struct.error) as error:
            raise ValueError(f"{path} cannot be read as an npz ({error}): fetch or make it again") from error
        if self._array.ndim != 4 or self._array.shape[-1] != 3 or self._array.dtype != np.uint8:
            raise ValueError(
                f"{ARRAY} of {path} is {self._array.dtype} {self._array.shape}: want uint8 (N, H, W, 3), three "
                "channels, last"
            )
        if not len(self._array):
            raise ValueError(f"{path} holds no images: make it again")
        self.image_size = image_size
        height, width = self._array.shape[1:3]
        super().__init__((image_size, image_size) if image_size else (height, width))

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> Item:
        pixels = np.array(self._array[index])
        if self.image_size is not None:
            pixels = np.array(centre_crop(Image.fromarray(pixels), self.image_size))
        return {"image": torch.from_numpy(pixels.transpose(2, 0, 1).copy())}


def open_images(path: str | Path, image_size: int | None = None) -> ImageSet:
    """The images of a folder, or of an npz with `arr_0`.

    Raises:
        ValueError: if there are none.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix == ".npz":
        return ImageArray(path, image_size)
    if not path.is_dir():
        what = "is neither a folder nor an npz" if path.exists() else "does not exist"
        raise ValueError(f"{path} {what}: give a folder of images, or an npz with {ARRAY}")
    files = list_images(path)
    if (path / OURS[0]).is_file():
        files = [file for file in files if file != str(path / OURS[1])]
    if not files:
        raise ValueError(f"there are no images in {path}: give a folder of images, or an npz with {ARRAY}")
    return ImageFiles(files, image_size)


def arrays(path: Path) -> set[str]:
    """Names of the arrays in an npz.

    Raises:
        ValueError: if the file is none, or damaged.
    """
    try:
        with ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an npz ({error}): fetch or make it again") from error


def _open_array(path: Path) -> Any:
    """The array, mapped from the file where it is not compressed: 50 000 images of 256 px are 10 GB."""
    name = f"{ARRAY}.npy"
    with ZipFile(path) as archive, path.open("rb") as file:
        if name not in archive.namelist():
            raise ValueError(f"it holds no {ARRAY}")
        info = archive.getinfo(name)
        if info.compress_type == ZIP_STORED:
            file.seek(info.header_offset + 26)  # where the header of a zip's member says how long its ends are
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            return _map_array(path, file)
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[ARRAY]


def _map_array(path: Path, file: BinaryIO) -> Any:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if fortran or dtype.hasobject:
        raise ValueError(f"{ARRAY} is laid out in another order than N, H, W, 3")
    return np.memmap(path, dtype, "r", file.tell(), shape)
