"""`python examples/digits.py FOLDER`: scikit-learn's handwritten digits as a folder of real images."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from PIL import Image

from pixelgen.checks import COUNT, checked


@checked(size=COUNT)
def write_digits(folder: Path, size: int = 32) -> int:
    """Write 1797 handwritten digits (Alpaydin and Kaynak, UCI, 1998) as `folder/<digit>/<index>.png`.

    Args:
        folder: where the ten class folders go.
        size: side of the images in pixels; the originals have 8.

    Returns:
        How many images there are.

    Raises:
        ValueError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("scikit-learn holds the digits: pip install 'pixelgen-lightning[demo]'") from error
    digits = load_digits()
    for index, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (values * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).convert("RGB").save(path)
    return len(digits.target)


def main(args: Sequence[str] | None = None) -> int:
    """Write the images; see `python examples/digits.py --help`."""
    parser = ArgumentParser(prog="python examples/digits.py", allow_abbrev=False)
    parser.add_function_arguments(write_digits, as_positional=True)
    options = parser.parse_args(args)
    try:
        count = write_digits(**options)
    except (ValueError, OSError) as error:
        full = f"could not write into {options.folder} ({error}): give another folder"
        sys.stderr.write(f"error: {full if isinstance(error, OSError) else error}\n")
        raise SystemExit(2) from error
    sys.stdout.write(f"{count} images in {options.folder}\n")
    return count


if __name__ == "__main__":
    main()
