"""The base class of image data: batches, workers, sharding by rank and exact resuming."""

import signal
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from pixelgen.checks import COUNT, FROM_ZERO, Range, checked
from pixelgen.data.order import ResumableOrder

Item = dict[str, Any]
"""`image`: uint8 tensor (3, H, W); `label`: int, unless unlabelled; `caption`: str, where asked for."""


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits from any mode: transparent pixels over white, 16-bit grey scaled down."""
    if image.mode.startswith("I"):  # Pillow would clip these at 255
        image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    if image.mode in {"LA", "La", "PA", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Square centre crop of size × size pixels as in ADM (arXiv:2105.05233) and every work that compares with it.

    Halves with box resampling while the shorter side is at least twice `size`, resizes the shorter side to `size`
    bicubically, then cuts out the centre.
    """
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
    (seed, key), never from the worker's random state: then a resumed run is exactly the run that never stopped.

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
        self.image_size, self.batch_size, self.num_workers, self.seed = image_size, batch_size, num_workers, seed

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None if the images are unlabelled."""
        return None if self.class_names is None else len(self.class_names)

    @abstractmethod
    def train_dataset(self) -> Dataset[Item]:
        """Map-style data set of the training images."""

    def val_dataset(self) -> Dataset[Item] | None:
        """Map-style data set of held-out images; None if there are none."""
        return None

    def prompts(self, count: int) -> list[str]:
        """Captions of the first training images, from the first again where there are fewer than `count`."""
        dataset: Any = self.train_dataset()
        captions = [dataset[i]["caption"] for i in range(min(count, len(dataset)))]
        return [captions[i % len(captions)] for i in range(count)]

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled full batches of this rank's share, resuming where the trainer's progress says.

        With the trainer's `overfit_batches`, the first ones in order, the same in each epoch and on each rank.
        """
        dataset: Any = self.train_dataset()
        if self._overfits:
            return DataLoader(dataset, drop_last=True, batch_size=self.batch_size, **self._loading())
        order = ResumableOrder(dataset, self.batch_size, self.seed, *self._shard(), self._batches_consumed)
        return ResumableLoader(dataset, sampler=order, drop_last=True, batch_size=self.batch_size, **self._loading())

    def val_dataloader(self) -> DataLoader[Item] | list[Any]:
        """Held-out images in order; several ranks get equally many, padded by repeating. Empty list if none."""
        dataset = self.val_dataset()
        if dataset is None:
            return []
        world_size, rank = self._shard()
        sampler: DistributedSampler[Item] | None
        sampler = DistributedSampler(dataset, world_size, rank, shuffle=False) if world_size > 1 else None
        return DataLoader(dataset, sampler=sampler, batch_size=self.batch_size, **self._loading())

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
    """Clusters send SIGTERM and its like to every process of a job: workers must live until training has saved."""
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class ResumableLoader(DataLoader[Item]):
    """A loader whose sampler is a `ResumableOrder`: its state tells Lightning that it can resume in mid-epoch."""

    sampler: ResumableOrder

    def state_dict(self) -> dict[str, Any]:
        """What identifies the order of samples and the position in it."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the order of the run being continued."""
        self.sampler.load_state_dict(state)
