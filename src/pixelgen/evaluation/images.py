"""Sets of images to be evaluated: the files of a folder, or the array of an npz."""

import math
import os
import struct
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch.utils.data import Dataset

from pixelgen.data.folder import EXTENSIONS, load_rgb
from pixelgen.data.images import Item, centre_crop
from pixelgen.data.layout import find_layout, list_files

ARRAY = "arr_0"
UNCHECKED, MOST_COMPRESSED = 1 << 30, 100  # bytes that any array may have; larger ones so many times the packed bytes
OURS = ("settings.json", "grid.png")  # in a folder that holds the first, the second is an overview


class ImageSet(Dataset[Item]):
    """Images of one size. An item holds the uint8 `image` (3, H, W), or a sentence `problem` about one that does not.

    Args:
        own: (height, width) of the images as they are, or of the first.
        image_size: side of centre crops in pixels, as in ADM; None for no cropping.
    """

    def __init__(self, own: tuple[int, int], image_size: int | None) -> None:
        self.image_size, self.own = image_size, own
        self.size = own if image_size is None else (image_size, image_size)

    def __len__(self) -> int:
        raise NotImplementedError

    def _item(self, image: Image.Image) -> Item:
        image = image if self.image_size is None else centre_crop(image, self.image_size)
        return {"image": torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())}


class ImageFiles(ImageSet):
    """Image files, of which at least one can be read, all of one size unless they are cropped.

    An unreadable one has a `problem` and `corrupt` True. With `upright` they are turned as `read_image` does it.
    """

    def __init__(self, files: Sequence[str], image_size: int | None = None, upright: bool = True) -> None:
        self._files = np.array([os.fsencode(file) for file in files])  # bytes, for the memory of workers
        self.upright = upright
        super().__init__(self._first_size(), image_size)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Item:
        path = os.fsdecode(self._files[index])
        try:
            image = load_rgb(path, self.upright)
        except ValueError as error:
            return {"problem": str(error), "corrupt": True, "path": path}
        height, width = self.size
        if self.image_size is None and image.size != (width, height):
            problem = f"{path} is {image.width}x{image.height} px but the first image is {width}x{height} px"
            return {"problem": f"{problem}: give images of one size", "corrupt": False, "path": path}
        return self._item(image)

    def _first_size(self) -> tuple[int, int]:
        for file in self._files:
            with suppress(ValueError):
                image = load_rgb(os.fsdecode(file), self.upright)
                return image.height, image.width
        raise ValueError(f"none of {len(self._files)} files can be read as an image: {os.fsdecode(self._files[0])}, …")


class ImageArray(ImageSet):
    """The array `arr_0` of an npz, uint8 (N, H, W, 3), as the ADM evaluation suite has it, read from disk as needed."""

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        try:
            self._array = _open_array(path)
        except Exception as error:  # zip and NumPy raise what they like on damaged bytes
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


def open_images(path: str | Path, image_size: int | None = None, upright: bool = True) -> ImageSet:
    """The images of a folder, or of an npz with `arr_0`, centre-cropped to `image_size`; there must be some.

    Of a folder with `train` and `val` (see `find_layout`) those for training. With `upright` images are turned as their
    EXIF orientation asks for.
    """
    path, fix = Path(path).expanduser(), f"give a folder of images, or an npz with {ARRAY}"
    if path.is_file() and path.suffix == ".npz":
        return ImageArray(path, image_size)
    if not path.is_dir():
        raise ValueError(f"{path} {'is neither a folder nor an npz' if path.exists() else 'does not exist'}: {fix}")
    layout = find_layout(path, EXTENSIONS)
    listing = list_files(layout.train, EXTENSIONS)
    val = "" if layout.val is None else f"of {path}, the images in {layout.train} are taken, not those in {layout.val}"
    for note in filter(None, (*layout.notes, val, listing.left_out)):
        rank_zero_warn(note)
    files = listing.files
    if (path / OURS[0]).is_file():
        files = [file for file in files if file != str(path / OURS[1])]
    if not files:
        raise ValueError(f"there are no images in {path}: {fix}")
    return ImageFiles(files, image_size, upright)


def arrays(path: Path) -> set[str]:
    """Names of the arrays in an npz; a ValueError tells that the file is none, or damaged."""
    try:
        with ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an npz ({error}): fetch or make it again") from error


def checksum(path: Path) -> str:
    """Of the array `arr_0` in an npz, as its directory has it."""
    with ZipFile(path) as archive:
        return f"{archive.getinfo(f'{ARRAY}.npy').CRC:08x}"


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Arrays of an npz by name, each read whole; a ValueError for one that is not what its header says, or a bomb."""
    with ZipFile(path) as archive:
        for name in names:
            _check_member(archive, f"{name}.npy")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names}


def _check_member(archive: ZipFile, name: str) -> None:
    """Refuse an array that takes far more memory than a file of its size could honestly need."""
    info = archive.getinfo(name)
    if info.file_size > max(UNCHECKED, MOST_COMPRESSED * info.compress_size):
        raise ValueError(
            f"{name} packs {info.file_size} bytes into {info.compress_size}, as no images or statistics do"
        )
    with archive.open(name) as file:
        shape, _, dtype = _read_header(file)
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"{name} of {info.file_size} bytes cannot be {dtype} {shape}")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type of an array, as the beginning of an npy file says."""
    layout = np.lib.format
    version = layout.read_magic(file)
    read = layout.read_array_header_1_0 if version == (1, 0) else layout.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype] = read(file)
    return found


def _open_array(path: Path) -> Any:
    """The array, mapped from the file if it is not compressed: 50 000 images of 256 px are 10 GB."""
    with ZipFile(path) as archive, path.open("rb") as file:
        if f"{ARRAY}.npy" not in archive.namelist():
            raise ValueError(f"it holds no {ARRAY}")
        info = archive.getinfo(f"{ARRAY}.npy")
        if info.compress_type == ZIP_STORED:
            file.seek(info.header_offset + 26)  # here the header of a zip's member has the lengths of its last parts
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            shape, fortran, dtype = _read_header(file)
            if fortran or dtype.hasobject:
                raise ValueError(f"{ARRAY} is laid out in another order than N, H, W, 3")
            return np.memmap(path, dtype, "r", file.tell(), shape)
    return read_arrays(path, [ARRAY])[ARRAY]
