"""Features of some of the images, for metrics that compare images one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric


class FeatureSample(Metric):
    """Features of a fixed choice of images, in the order of their numbers, whatever order they arrive in.

    Args:
        num_samples: how many images there will be; an image is known by its number in [0, num_samples).
        num_features: length D of one feature vector.
        at_most: how many are kept; which ones is drawn by `seed`.
        seed: of that draw.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    features: Tensor
    present: Tensor

    def __init__(self, num_samples: int, num_features: int, at_most: int = 10_000, seed: int = 2020) -> None:
        super().__init__()
        kept = min(num_samples, at_most)
        chosen = np.sort(np.random.RandomState(seed).permutation(num_samples)[:kept])
        self._row_of = torch.full((num_samples,), -1)
        self._row_of[torch.from_numpy(chosen)] = torch.arange(kept)
        # rows that other processes fill are 0 here, so that a sum puts them together
        self.add_state("features", torch.zeros(kept, num_features), dist_reduce_fx="sum")
        self.add_state("present", torch.zeros(kept), dist_reduce_fx="sum")

    def update(self, features: Tensor, indices: Sequence[int]) -> None:
        """Keep what was chosen of features (B, D) of the images with these numbers."""
        rows = self._row_of[torch.as_tensor(indices)]
        chosen = rows >= 0
        rows, chosen = rows[chosen].to(self.features.device), chosen.to(features.device)
        self.features[rows] = features.detach()[chosen].to(self.features)
        self.present[rows] = 1

    def compute(self) -> Tensor:
        """Features (K, D), float32."""
        return self.features[self.present > 0]
