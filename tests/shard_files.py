"""Tars of small images for the tests, sound and damaged."""

import io
import tarfile

import numpy as np
from PIL import Image


def picture(value, size=(16, 16), kind="PNG"):
    """An encoded image of one grey value."""
    file = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def write_tar(path, samples):
    """A tar of samples: each a key and its files by extension."""
    with tarfile.open(path, "w") as tar:
        for key, files in samples:
            for extension, content in files.items():
                content = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder, lengths, captions=False, start=0):
    """Shards of so many samples: image of grey value i, class i mod 7, caption "i", numbered through all shards."""
    folder.mkdir(parents=True, exist_ok=True)
    number = start
    for shard, length in enumerate(lengths):
        samples = []
        for _ in range(length):
            files = {"png": picture(number % 256), "cls": str(number % 7)}
            samples.append((f"{number:06d}", files | ({"txt": str(number)} if captions else {})))
            number += 1
        write_tar(folder / f"{shard:03d}.tar", samples)
    return str(folder)
