"""The order of training samples as a pure function of the seed and of how many samples were consumed."""

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DistributedSampler

OTHER_DATA = "the checkpoint was trained on another kind of data: this one is read from its beginning"

GOLDEN = (5**0.5 - 1) / 2


def evenly_spaced(length: int, count: int) -> list[int]:
    """So many numbers below a length, at most all of them: one in each of equal stretches.

    The place in a stretch moves on by the golden ratio, so that every class has its share of a data set whether it is
    sorted by class or classes come in turn.
    """
    count = min(count, length)
    starts = [i * length // count for i in range(count)]
    stretches = zip(starts, [*starts[1:], length], strict=True)
    return [start + int(i * GOLDEN % 1 * (end - start)) for i, (start, end) in enumerate(stretches)]


def other_order(state: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The beginning of a warning that a checkpoint's order of samples differs from our own; empty if it does not."""
    changed = [f"{name} {state[name]} -> {own[name]}" for name in own if state[name] != own[name]]
    return f"continuing with another order of samples than the checkpoint's ({', '.join(changed)})" if changed else ""


class ResumableOrder(DistributedSampler[int]):
    """Endless shuffled order that a resumed run continues exactly where the stopped one left it.

    The order is one stream of samples: permutation after permutation of the data set, each drawn from (seed, epoch)
    alone. Rank r of W takes every W-th sample of it. So it is the same stream whatever the number of processes and
    the batch size; both may change when a run is resumed. A batch at the border takes from two permutations.

    Yields keys, epoch·len(dataset) + index, from which a data set derives its random choices (flips, crops), so that
    these differ between epochs yet depend on no worker.

    It is a `DistributedSampler` so that Lightning leaves it alone whether or not `use_distributed_sampler` is set.
    `batches` returns the number of batches trained on so far, over all epochs, and is asked for each new iterator;
    `batch_size` is that of one process. A ValueError if the data set does not fill one global batch.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int = 0,
        world_size: int = 1,
        rank: int = 0,
        batches: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self.length, self.batches, self.global_batch = len(dataset), batches, batch_size * world_size
        self._batches_before = self._samples_before = 0  # when the global batch size last changed
        self.num_samples = self.length // self.global_batch * batch_size  # of an epoch on this rank, our len()
        if self.num_samples == 0:
            raise ValueError(
                f"the data set has {self.length} training samples, fewer than one global batch of {self.global_batch} "
                f"({batch_size} on each of {world_size} processes): lower batch_size or add samples"
            )

    def __iter__(self) -> Iterator[int]:
        """Yield as many keys as an epoch has, from the first sample not consumed yet."""
        first, step = self.consumed(), self.num_replicas
        epoch, permutation = -1, torch.empty(0)
        for position in range(first + self.rank, first + len(self) * step, step):
            if position // self.length != epoch:
                epoch = position // self.length
                permutation = self.permutation(epoch)
            yield epoch * self.length + int(permutation[position % self.length])

    def consumed(self) -> int:
        """Samples that all processes together have trained on, over all epochs."""
        return self._samples_before + (self.batches() - self._batches_before) * self.global_batch

    def permutation(self, epoch: int) -> Tensor:
        """Order of all indices in one epoch, int64 of shape (len(dataset),)."""
        # torch's CPU generator reads only the low 32 bits of its seed, so (seed, epoch) is hashed into them
        hashed = np.random.SeedSequence((self.seed, epoch)).generate_state(1)
        return torch.randperm(self.length, generator=torch.Generator().manual_seed(int(hashed[0])))

    def state_dict(self) -> dict[str, Any]:
        """What identifies the stream, and what turns a number of batches into a number of samples."""
        before = [self._batches_before, self._samples_before]
        return {"seed": self.seed, "samples": self.length, "global_batch": self.global_batch, "before": before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the samples of the run being resumed, also if its global batch size was another one.

        Where that run had another kind of data, without such a state, begin with the first sample. Warns of this, and
        if the order is not that of the run.
        """
        own = self.state_dict()
        if state.keys() != own.keys():
            rank_zero_warn(OTHER_DATA)
            self._batches_before, self._samples_before = self.batches(), 0
            return
        if change := other_order(state, {name: own[name] for name in ("seed", "samples")}):
            rank_zero_warn(f"{change}: some samples of this epoch will repeat and others be skipped")
        batches, samples = state["before"]
        if state["global_batch"] != self.global_batch:
            samples += (self.batches() - batches) * state["global_batch"]
            batches = self.batches()
        self._batches_before, self._samples_before = batches, samples
