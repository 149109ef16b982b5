"""Images of a set in one file, as the ADM evaluation suite reads them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image

from pixelgen.files import atomic

READERS, AHEAD = 4, 64  # threads, and images that they read at a time


def write_npz(images: Sequence[Path], to: Path) -> None:
    """Write images of one size as `arr_0`, uint8 (N, H, W, 3), one at a time; the file appears when it is whole."""
    first = _pixels(images[0])
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *first.shape)}
    with (
        ThreadPoolExecutor(READERS) as pool,
        atomic(to) as temporary,
        ZipFile(temporary, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for i in range(0, len(images), AHEAD):
            for path, image in zip(images[i:], pool.map(_pixels, images[i : i + AHEAD]), strict=False):
                if image.shape != first.shape:
                    raise ValueError(f"{path} is {image.shape}, but {images[0].name} is {first.shape}: remove one")
                file.write(image.tobytes())


def read_png(path: Path) -> torch.Tensor:
    """An image file as uint8 (3, H, W)."""
    return torch.from_numpy(_pixels(path).copy()).permute(2, 0, 1)


def _pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): delete it and generate it again") from error
