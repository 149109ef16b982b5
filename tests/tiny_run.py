"""A tiny PixelGen on tiny images, and a trainer for it."""

from types import MappingProxyType

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pixelgen import PixelGen
from pixelgen.conditioner import Text
from pixelgen.encoders.frozen import FeatureExtractor
from pixelgen.flow import Euler
from pixelgen.models import JiT


def tiny_jit(num_classes=3, size=8, patch_size=4):
    """A network whose every weight gets a gradient in the first step: the untrained last layer is zero otherwise."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "depth": 1, "num_heads": 2, "bottleneck_dim": None, "in_context_len": 0}
    denoiser = JiT(input_size=size, patch_size=patch_size, num_classes=num_classes, **sizes)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return denoiser


class TinyModule(PixelGen):
    """Keeps its losses, and the seeds that were sampled.

    With `global_noise`, the loss depends on the global random numbers, which callbacks must leave as they are.
    """

    def __init__(self, num_classes=3, lr=0.01, global_noise=False, denoiser=None, fused=True, **options):
        super().__init__(
            tiny_jit(num_classes) if denoiser is None else denoiser,
            sampler=Euler(num_steps=1),
            optimizer=lambda params: torch.optim.AdamW(params, lr=lr, fused=fused),
            **options,
        )
        self.global_noise = global_noise
        self.losses = []
        self.sampled = []

    def training_step(self, batch, batch_idx):
        factor = 1 + torch.rand(()) if self.global_noise else 1  # before the module sets its own seeds
        loss = super().training_step(batch, batch_idx) * factor
        self.losses.append(loss.item())
        return loss

    def sample(self, condition=None, seeds=0, *args, **options):
        self.sampled += list(seeds)
        torch.rand(7)  # callbacks must put the global generator back
        return super().sample(condition, seeds, *args, **options)


class Prompts(Text):
    """Prompts for a network that never sees them."""

    settings = MappingProxyType({"text_encoder": "none"})

    def __init__(self):
        super().__init__(None)

    def from_batch(self, batch):
        return None


class TinyImages(Dataset):
    def __init__(self, length=16):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (length, 3, 8, 8), dtype=torch.uint8, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": index % 3}


class TinyData(LightningDataModule):
    num_workers = 0

    def __init__(self, length=16):
        super().__init__()
        self.length = length

    def train_dataset(self):
        return TinyImages(self.length)

    def train_dataloader(self):
        return DataLoader(TinyImages(self.length), batch_size=4)

    def val_dataloader(self):
        return DataLoader(TinyImages(4), batch_size=4)


class Means(FeatureExtractor):
    """Mean of each channel: three features whose statistics can be worked out elsewhere."""

    def __init__(self):
        super().__init__(nn.Identity(), "means", 3)

    def forward(self, images):
        return images.float().mean(dim=(2, 3)) / 255


def tiny_trainer(folder, callbacks, max_steps=6, **options):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any("Checkpoint" in type(callback).__name__ for callback in callbacks),
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(default_root_dir=folder, callbacks=callbacks, max_steps=max_steps, **(defaults | options))


def randomise_average(run):
    """Random weights in the one average of a run, whose untrained network is all zeros at the end."""
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    (average,) = checkpoint["callbacks"]["EMA"]["averages"].values()
    for value in average.values():
        value.normal_(0, 0.3, generator=generator)
    path.unlink()  # a link to a numbered checkpoint
    torch.save(checkpoint, path)
