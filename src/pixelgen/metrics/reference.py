"""Feature statistics of real images, to compare generated ones with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from pixelgen.data.images import Item
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.metrics.frechet import FeatureStatistics, Statistics


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
