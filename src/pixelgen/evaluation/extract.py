"""Images to features, spatial features, logits and moments: in one pass, on any number of processes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelgen.distributed.processes import gather
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.evaluation.statistics import Moments, Statistics
from pixelgen.evaluation.tf32 import full_float32


class Rows:
    """Vectors of numbered images, on the CPU of the process that computed them.

    Args:
        chosen: numbers of the images whose vectors are kept; None for all.
    """

    def __init__(self, chosen: Collection[int] | None = None) -> None:
        self.chosen = None if chosen is None else frozenset(chosen)
        self.kept: list[tuple[list[int], Tensor]] = []

    def update(self, vectors: Tensor, numbers: Sequence[int]) -> None:
        """Keep vectors (B, D) of the images with these numbers."""
        places = [i for i, number in enumerate(numbers) if self.chosen is None or number in self.chosen]
        self.kept.append(([numbers[i] for i in places], vectors.detach()[places].float().cpu()))

    def gather(self) -> Tensor:
        """Vectors (K, D) of all processes, float32, by number, whatever order they came in."""
        kept = gather(self.kept)
        order = np.argsort([number for numbers, _ in kept for number in numbers])
        return torch.cat([vectors for _, vectors in kept])[torch.from_numpy(order)]


class Extraction:
    """Takes in images batch by batch, each process its share, and keeps what scores need of them.

    Moments are sums in float64, features are kept of at most `max_features` images; only logits grow with the number of
    images (4 kB each with Inception). What is not needed is not computed; the extractor runs once for each batch.

    Args:
        extractor: on the device to use.
        number: how many images there will be on all processes; each is known by its number below this.
        needs: what of `Statistics` to provide beside `moments`: `spatial`, `features`, `logits`.
        max_features: of how many images features are kept.
        seed: of the draw of those.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        number: int,
        needs: Collection[str] = (),
        max_features: int = 10_000,
        seed: int = 2020,
    ) -> None:
        self.extractor, sizes = extractor, extractor.sizes
        self.device = next((weight.device for weight in extractor.network.parameters()), torch.device("cpu"))
        self.outputs = ["features", *(name for name in ("spatial", "logits") if name in needs)]
        self.moments = {name: Moments(sizes[name]).to(self.device) for name in self.outputs if name != "logits"}
        self.rows = {"logits": Rows()} if "logits" in needs else {}
        if "features" in needs:
            self.rows["features"] = Rows(np.random.RandomState(seed).permutation(number)[:max_features].tolist())

    def update(self, images: Tensor, numbers: Sequence[int]) -> None:
        """Add uint8 images (B, 3, H, W) with these numbers."""
        with torch.no_grad(), full_float32():
            outputs = self.extractor.outputs(images.to(self.device), self.outputs)
        for name, moments in self.moments.items():
            moments.update(outputs[name])
        for name, rows in self.rows.items():
            rows.update(outputs[name], numbers)

    def statistics(self) -> Statistics:
        """Of the images of all processes, on the CPU; all of them must call this."""
        known: dict[str, Any] = {name: rows.gather() for name, rows in self.rows.items()}
        known["mu"], known["sigma"], n = self.moments["features"].compute()
        if "spatial" in self.moments:
            known["mu_s"], known["sigma_s"], _ = self.moments["spatial"].compute()
        known = {name: value.cpu() for name, value in known.items()}
        return Statistics(
            n=int(n), extractor=self.extractor.name, weights_sha256=self.extractor.weights_sha256, **known
        )
