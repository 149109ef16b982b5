"""Sets of images to be evaluated: the files of a folder, or the array of an npz."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from pixelgen.data.folder import list_images, load_rgb
from pixelgen.data.images import Item, centre_crop

ARRAY = "arr_0"
OURS = ("settings.json", "grid.png")  # in a folder that holds the first, the second is an overview


class ImageSet(Dataset[Item]):
    """Images of one size. An item holds the uint8 `image` (3, H, W), or a sentence `problem` about one that does not.

    Args:
        own: (height, width) of the images as they are.
        image_size: side of centre crops in pixels, as in ADM; None for no cropping.
    """

    def __init__(self, own: tuple[int, int], image_size: int | None) -> None:
        self.image_size = image_size
        self.size = own if image_size is None else (image_size, image_size)

    def __len__(self) -> int:
        raise NotImplementedError

    def _item(self, image: Image.Image) -> Item:
        image = image if self.image_size is None else centre_crop(image, self.image_size)
        return {"image": torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())}


class ImageFiles(ImageSet):
    """Image files, of which at least one can be read, all of one size unless they are cropped.

    An unreadable one has a `problem` and `corrupt` True.
    """

    def __init__(self, files: Sequence[str], image_size: int | None = None) -> None:
        self._files = np.array([os.fsencode(file) for file in files])  # bytes, for the memory of workers
        super().__init__(self._first_size() if image_size is None else (0, 0), image_size)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Item:
        path = os.fsdecode(self._files[index])
        try:
            image = load_rgb(path)
        except ValueError as error:
            return {"problem": str(error), "corrupt": True, "path": path}
        height, width = self.size
        if self.image_size is None and image.size != (width, height):
            problem = f"{path} is {image.width}x{image.height} px but the first image is {width}x{height} px"
            return {"problem": f"{problem}: give images of one size", "corrupt": False, "path": path}
        return self._item(image)

    def _first_size(self) -> tuple[int, int]:
        for file in self._files:
            try:
                with Image.open(os.fsdecode(file)) as image:
                    return image.height, image.width
            except OSError:
                continue
        raise ValueError(f"none of {len(self._files)} files can be read as an image: {os.fsdecode(self._files[0])}, …")


class ImageArray(ImageSet):
    """The array `arr_0` of an npz, uint8 (N, H, W, 3), as the ADM evaluation suite has it, read from disk as needed."""

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        try:
            self._array = _open_array(path)
        except (OSError, ValueError, BadZipFile, EOFError, struct.error) as error:
            raise ValueError(f"{path} cannot be read as an npz ({error}): fetch or make it again") from error
        shape, dtype = self._array.shape, self._array.dtype
        if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8:
            raise ValueError(f"{ARRAY} of {path} is {dtype} {shape}: want uint8 (N, H, W, 3), three channels, last")
        if not shape[0]:
            raise ValueError(f"{path} holds no images: make it again")
        super().__init__((shape[1], shape[2]), image_size)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> Item:
        return self._item(Image.fromarray(np.array(self._array[index])))


def open_images(path: str | Path, image_size: int | None = None) -> ImageSet:
    """The images of a folder, or of an npz with `arr_0`, centre-cropped to `image_size`; there must be some."""
    path, fix = Path(path).expanduser(), f"give a folder of images, or an npz with {ARRAY}"
    if path.is_file() and path.suffix == ".npz":
        return ImageArray(path, image_size)
    if not path.is_dir():
        raise ValueError(f"{path} {'is neither a folder nor an npz' if path.exists() else 'does not exist'}: {fix}")
    files = list_images(path)
    if (path / OURS[0]).is_file():
        files = [file for file in files if file != str(path / OURS[1])]
    if not files:
        raise ValueError(f"there are no images in {path}: {fix}")
    return ImageFiles(files, image_size)


def arrays(path: Path) -> set[str]:
    """Names of the arrays in an npz; a ValueError tells that the file is none, or damaged."""
    try:
        with ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an npz ({error}): fetch or make it again") from error


def _open_array(path: Path) -> Any:
    """The array, mapped from the file if it is not compressed: 50 000 images of 256 px are 10 GB."""
    with ZipFile(path) as archive, path.open("rb") as file:
        if f"{ARRAY}.npy" not in archive.namelist():
            raise ValueError(f"it holds no {ARRAY}")
        info = archive.getinfo(f"{ARRAY}.npy")
        if info.compress_type == ZIP_STORED:
            file.seek(info.header_offset + 26)  # here the header of a zip's member has the lengths of its last parts
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            layout = np.lib.format
            version = layout.read_magic(file)
            read_header = layout.read_array_header_1_0 if version == (1, 0) else layout.read_array_header_2_0
            shape, fortran, dtype = read_header(file)
            if fortran or dtype.hasobject:
                raise ValueError(f"{ARRAY} is laid out in another order than N, H, W, 3")
            return np.memmap(path, dtype, "r", file.tell(), shape)
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[ARRAY]
