"""The base class of image data: batches, workers, sharding by rank and exact resuming."""

import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, default_collate

from pixelgen.checks import COUNT, FROM_ZERO, Range, checked
from pixelgen.data.order import ResumableOrder, evenly_spaced
from pixelgen.data.tars import SkipCounts

Item = dict[str, Any]
"""`image`: uint8 tensor (3, H, W); `label`: int, unless unlabelled; `caption`: str, where asked for.

`left_out`, only where the item stands for others that cannot be used: their reasons (of `SkipCounts`) and places.
"""
NAMES = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # which ask a job to stop
LONG = 64  # sides in such a ratio: longer images are shortened before they are resized


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Square centre crop of size × size pixels as in ADM (arXiv:2105.05233) and every work that compares with it.

    Halves with box resampling while the shorter side is at least twice `size`, resizes the shorter side to `size`
    bicubically, then cuts out the centre. Of very long images the ends, which do not matter, go first: enlarged whole,
    1 x 20 000 pixels would take gigabytes.
    """
    if max(image.size) > LONG * min(image.size):
        left, upper = (max(0, side - LONG * min(image.size)) // 2 for side in image.size)
        image = image.crop((left, upper, image.width - left, image.height - upper))
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, upper = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, upper, left + size, upper + size))


def to_tensor(image: Image.Image, flip: bool = False) -> Tensor:
    """The pixels of an RGB image as uint8 (3, H, W), with `flip` mirrored left to right."""
    pixels = np.array(image)[:, ::-1] if flip else np.array(image)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class ImageData(LightningDataModule):
    """Square images in batches `{"image": uint8 (B, 3, H, W), "label": int64 (B,)}`.

    A data set of your own: subclass this, set `class_names` (None if unlabelled), and return map-style data sets from
    `train_dataset` and `val_dataset`. Their items are dicts as above without the batch dimension. A training item is
    asked for by a key, epoch·len + index; take `key % len(self)` as the index and derive any random choice from
    (seed, key), never from the worker's random state: then a resumed run is exactly the run that never stopped. An item
    may say as `left_out` what it stands in for; the reasons are counted (`skipped`), the first of each kind is told.

    Args:
        image_size: Side of the images in pixels.
        batch_size: Images per batch and process.
        num_workers: Loading processes per training process; 0 loads in the training process itself.
        seed: Fixes the order of the samples and all random choices.
    """

    class_names: list[str] | None = None
    labelled: bool = False  # whether samples have labels though nobody has counted the classes, known after `setup`
    captions: bool = False  # whether batches carry `caption`, or text embeddings as `text`
    text_shape: tuple[int, ...] | None = None  # (L, E) of precomputed text embeddings, known after `setup`
    text_settings: Sequence[dict[str, Any]] = ()  # of the text encoders that made them, where known

    @checked(image_size=COUNT, batch_size=COUNT, num_workers=Range(0, 1024), seed=FROM_ZERO)
    def __init__(self, image_size: int, batch_size: int = 32, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        self._skipped = SkipCounts()  # of the training images
        self.image_size, self.batch_size, self.num_workers, self.seed = image_size, batch_size, num_workers, seed

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None if the images are unlabelled."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def skipped(self) -> dict[str, int]:
        """What this process has left out of the training data so far, by reason."""
        return dict(zip(SkipCounts.REASONS, self._skipped.listed(), strict=True))

    @property
    def summary(self) -> str:
        """What the data is, in words: classes and numbers of images."""
        val = self.val_dataset()
        return (
            f"{self._kinds()}, {self._extent(self.train_dataset())}; validation: {self._extent(val) if val else 'none'}"
        )

    def _extent(self, dataset: Any) -> str:
        """How many images there are, and where, in words."""
        return f"{len(dataset):,} image{'s' * (len(dataset) != 1)}".replace(",", " ")

    def _kinds(self) -> str:
        """What stands for the images, in words."""
        if self.captions or self.num_classes is None:
            return "captions" if self.captions else "no classes"
        names = self.class_names or []
        some = ", ".join(names if len(names) < 4 else [*names[:2], "…", names[-1]])
        return f"{self.num_classes} class{'es' * (self.num_classes > 1)}" + (f" ({some})" if names else "")

    @abstractmethod
    def train_dataset(self) -> Dataset[Item]:
        """Map-style data set of the training images."""

    def val_dataset(self) -> Dataset[Item] | None:
        """Map-style data set of held-out images; None if there are none."""
        return None

    def prompts(self, count: int) -> list[str]:
        """Captions of training images, evenly spaced, from the first again where there are fewer than `count`."""
        dataset: Any = self.train_dataset()
        captions = [dataset[i]["caption"] for i in evenly_spaced(len(dataset), count)]
        return [captions[i % len(captions)] for i in range(count)]

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled full batches of this rank's share, resuming where the trainer's progress says.

        With the trainer's `overfit_batches`, the first ones in order, the same in each epoch and on each rank.
        """
        dataset: Any = self.train_dataset()
        options = {**self._loading(), "batch_size": self.batch_size, "collate_fn": _collate}
        if self._overfits:
            return CountingLoader(dataset, drop_last=True, **options)
        order = ResumableOrder(dataset, self.batch_size, self.seed, *self._shard(), self._batches_consumed)
        loader = ResumableLoader(dataset, sampler=order, drop_last=True, **options)
        loader.gather, self._skipped = self._gather, loader.skipped  # a loader that this kept would outlive its use
        return loader

    def val_dataloader(self) -> DataLoader[Item] | list[Any]:
        """Held-out images in order; several ranks get equally many, padded by repeating. Empty list if none.

        Where the trainer's `limit_val_batches` takes a part, evenly spaced ones come first: files are sorted by class.
        """
        dataset: Any = self.val_dataset()
        if dataset is None:
            return []
        world_size, rank = self._shard()
        limit = 1.0 if self.trainer is None else self.trainer.limit_val_batches
        part = int(limit * len(dataset)) if isinstance(limit, float) else limit * self.batch_size * world_size
        if 0 < part < len(dataset):
            chosen = evenly_spaced(len(dataset), part)
            dataset = Subset(dataset, [*chosen, *sorted({*range(len(dataset))} - {*chosen})])
        sampler: DistributedSampler[Item] | None
        sampler = DistributedSampler(dataset, world_size, rank, shuffle=False) if world_size > 1 else None
        options = {**self._loading(), "batch_size": self.batch_size, "collate_fn": _collate}
        return CountingLoader(dataset, sampler=sampler, **options)

    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _ignore_signals,
            # a loader without its own generator draws from the global one, which would shift the training noise
            "generator": torch.Generator().manual_seed(self.seed),
        }

    @property
    def _overfits(self) -> bool:
        """Whether the trainer wants to see the same few batches in each epoch."""
        return self.trainer is not None and bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]

    def _gather(self, states: Tensor) -> Tensor:
        """Integers of all processes, stacked."""
        if self.trainer is None or self.trainer.world_size == 1:
            return states[None]
        strategy = self.trainer.strategy
        gathered: Tensor = strategy.all_gather(states.to(strategy.root_device))
        return gathered.cpu()

    def _shard(self) -> tuple[int, int]:
        """World size and rank; (1, 0) without a trainer."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _batches_consumed(self) -> int:
        """Batches trained on in all epochs; of Lightning's counters the one that an interrupted batch leaves alone."""
        if self.trainer is None:
            return 0
        processed: int = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return processed


def _ignore_signals(worker: int) -> None:
    """Clusters and terminals send signals to every process of a job: workers must live until training has saved."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _collate(items: list[Item]) -> dict[str, Any]:
    """A batch of items, with all that they stand in for."""
    left_out = [each for item in items for each in item.pop("left_out", ())]
    return {**default_collate(items), **({"left_out": left_out} if left_out else {})}


class CountingLoader(DataLoader[Item]):
    """A loader that counts what the items of its batches stand in for, and tells the first of each kind."""

    @cached_property
    def skipped(self) -> SkipCounts:
        """The counts."""
        return SkipCounts()

    def __iter__(self) -> Any:
        """The batches of one epoch."""
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            for reason, place in batch.pop("left_out", ()):
                self.skipped.add(reason, place)
            yield batch


class ResumableLoader(CountingLoader):
    """A loader whose sampler is a `ResumableOrder`: its state tells Lightning that it can resume in mid-epoch.

    `gather` stacks a tensor of integers of all processes.
    """

    sampler: ResumableOrder
    gather: Callable[[Tensor], Tensor] = staticmethod(lambda counts: counts[None])

    def state_dict(self) -> dict[str, Any]:
        """What identifies the order of samples, the position in it, and what was left out; call it in all processes."""
        skipped = self.gather(torch.tensor(self.skipped.listed())).sum(0).tolist()
        return {**self.sampler.state_dict(), "skipped": skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the order of the run being continued."""
        if self.sampler.rank == 0:  # counts are added up over the processes
            self.skipped.restore(state.get("skipped", ()))
        self.sampler.load_state_dict({name: value for name, value in state.items() if name != "skipped"})
