"""Feature statistics of real images, to compare generated ones with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from pixelgen.data.images import Item, centre_crop
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.metrics.frechet import FeatureStatistics, Statistics

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class FolderImages(Dataset[Item]):
    """All images under a folder, in the order of their paths, centre-cropped to one size.

    Args:
        folder: where to look, subfolders included.
        image_size: side of the images in pixels.

    Raises:
        ValueError: if there are no images.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        self.image_size = image_size
        if not self.paths:
            raise ValueError(f"no images under {folder}: pass a folder of {', '.join(sorted(SUFFIXES))} files")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        with Image.open(self.paths[index]) as file:
            pixels = np.array(centre_crop(file.convert("RGB"), self.image_size))
        return {"image": torch.from_numpy(pixels).permute(2, 0, 1)}


def reference_statistics(
    dataset: Dataset[Item],
    extractor: FeatureExtractor,
    samples: int | None = None,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Statistics:
    """Statistics of the features of a map-style data set, shared among ranks.

    Args:
        dataset: items are dicts with a uint8 `image` (3, H, W).
        extractor: the feature extractor, on the device to use.
        samples: how many images, evenly spaced over the data set; all if None.
        batch_size: images at a time.
        num_workers: loading processes.
        rank: this process.
        world_size: number of processes.
    """
    length = len(dataset)  # type: ignore[arg-type]
    count = length if samples is None else min(samples, length)
    chosen = [i * length // count for i in range(rank, count, world_size)]
    loader: DataLoader[Any] = DataLoader(
        Subset(dataset, chosen), batch_size=batch_size, num_workers=num_workers, collate_fn=_images
    )
    device = device_of(extractor)
    features = FeatureStatistics(extractor.num_features).to(device)
    with torch.no_grad():
        for images in loader:
            features.update(extractor(images.to(device)))
    mu, sigma = features.compute()
    return Statistics(mu.cpu(), sigma.cpu(), count, extractor.name, extractor.weights_sha256)


def device_of(extractor: FeatureExtractor) -> torch.device:
    """Where an extractor's weights are."""
    return next((weight.device for weight in extractor.network.parameters()), torch.device("cpu"))


def _images(items: list[Item]) -> Tensor:
    return torch.stack([item["image"] for item in items])
