"""Inception Score (Salimans et al., arXiv:1606.03498), from sums that add up over processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric


class InceptionScore(Metric):
    """exp of the mean Kullback–Leibler divergence of p(y|x) from p(y), as mean and deviation over splits.

    The samples are shuffled by number before they are split, as torch-fidelity does it, so that neither the order in
    which they arrive nor the number of processes matters.

    Args:
        num_samples: how many samples there will be; a sample is known by its number in [0, num_samples).
        num_classes: length of the logits.
        splits: how many parts to score each on its own.
        seed: of the shuffling.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    n: Tensor
    total: Tensor
    negative_entropy: Tensor

    def __init__(self, num_samples: int, num_classes: int, splits: int = 10, seed: int = 2020) -> None:
        super().__init__()
        order = np.random.RandomState(seed).permutation(num_samples)
        split_of = np.empty(num_samples, dtype=np.int64)
        for split in range(splits):
            split_of[order[split * num_samples // splits : (split + 1) * num_samples // splits]] = split
        self._split_of = torch.from_numpy(split_of)
        double = torch.float64
        self.add_state("n", torch.zeros(splits, dtype=double), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(splits, num_classes, dtype=double), dist_reduce_fx="sum")
        self.add_state("negative_entropy", torch.zeros(splits, dtype=double), dist_reduce_fx="sum")

    def update(self, logits: Tensor, indices: Sequence[int]) -> None:
        """Add logits (B, num_classes) of the samples with these numbers."""
        logits = logits.detach().to(self.total)
        splits = self._split_of[torch.as_tensor(indices)].to(logits.device)
        log_p = logits.log_softmax(dim=1)
        p = log_p.exp()
        self.n.index_add_(0, splits, torch.ones_like(p[:, 0]))
        self.total.index_add_(0, splits, p)
        self.negative_entropy.index_add_(0, splits, (p * log_p).sum(dim=1))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the splits."""
        n, total = self.n[self.n > 0], self.total[self.n > 0]
        marginal = total / n[:, None]
        divergence = self.negative_entropy[self.n > 0] / n - torch.xlogy(marginal, marginal).sum(dim=1)
        scores = divergence.exp()
        return scores.mean(), scores.std(correction=0)
