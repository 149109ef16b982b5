"""The order of training samples as a pure function of the seed and of how many batches were consumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler


class ResumableOrder(DistributedSampler[int]):
    """Endless shuffled order that a resumed run continues exactly where the stopped one left it.

    Epoch e is one permutation of the data set, drawn from (seed, e) alone and cut into global batches; what does not
    fill the last one is left out of that epoch. Rank r of W takes every W-th sample of each global batch, so the
    global order survives a change of W at the same global batch size. Nothing needs to be stored: `consumed()` is
    asked each time an iterator is made.

    Yields keys, epoch·len(dataset) + index, from which a data set derives its random choices (flips, crops), so that
    these differ between epochs yet depend on no worker.

    It is a `DistributedSampler` so that Lightning leaves it alone whether or not `use_distributed_sampler` is set.

    Args:
        dataset: What the keys index; only its length counts.
        batch_size: Batch size of one process.
        seed: A non-negative integer.
        world_size: Number of processes W that share each global batch.
        rank: This process, 0 <= rank < W.
        consumed: Returns the number of batches trained on so far, over all epochs.

    Raises:
        ValueError: If the data set does not fill one global batch.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int = 0,
        world_size: int = 1,
        rank: int = 0,
        consumed: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self.length, self.batch_size, self.consumed = len(dataset), batch_size, consumed
        self.world_size, self.global_batch = world_size, batch_size * world_size
        self.batches_per_epoch = self.length // self.global_batch
        if self.batches_per_epoch == 0:
            raise ValueError(
                f"the data set has {self.length} training samples, fewer than one global batch of {self.global_batch} "
                f"({batch_size} on each of {world_size} processes): lower batch_size or add samples"
            )

    def __len__(self) -> int:
        """Samples of a full epoch on this rank."""
        return self.batches_per_epoch * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield as many keys as a full epoch has, from the first batch not consumed yet.

        Resumed in mid-epoch, that reaches into the next epoch: the trainer stops at the end of its epoch by itself,
        and one whose epoch is shorter (`limit_train_batches`) still sees every sample.
        """
        start = self.consumed()
        epoch, permutation = -1, torch.empty(0)
        for position in range(start, start + self.batches_per_epoch):
            if position // self.batches_per_epoch != epoch:
                epoch = position // self.batches_per_epoch
                permutation = self.permutation(epoch)
            first = position % self.batches_per_epoch * self.global_batch
            batch = permutation[first : first + self.global_batch][self.rank :: self.world_size]
            yield from (batch + epoch * self.length).tolist()

    def permutation(self, epoch: int) -> Tensor:
        """Order of all indices in one epoch, int64 of shape (len(dataset),)."""
        # torch's CPU generator reads only the low 32 bits of its seed, so (seed, epoch) is hashed into them
        hashed = np.random.SeedSequence((self.seed, epoch)).generate_state(1)
        return torch.randperm(self.length, generator=torch.Generator().manual_seed(int(hashed[0])))

    def state_dict(self) -> dict[str, Any]:
        """What must be unchanged for a resumed run to continue in the same order."""
        return {"seed": self.seed, "samples": self.length, "global_batch": self.global_batch}
