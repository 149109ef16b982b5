"""A tiny module with the parts of PixelGen that callbacks look at, and a trainer for it."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pixelgen.conditioner import Labels, Unconditional
from pixelgen.encoders.frozen import FeatureExtractor


class TinyDenoiser(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.image_size, self.num_classes, self.in_channels = 8, num_classes, 3
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        self.classes = nn.Embedding(3, 3)
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x, condition=None):
        x = self.mix(x)
        return x if condition is None else x + self.classes(condition)[:, :, None, None]


class TinyModule(LightningModule):
    def __init__(self, num_classes=3, lr=0.1, global_noise=False):
        super().__init__()
        torch.manual_seed(0)
        self.denoiser = TinyDenoiser(num_classes)
        self.conditioner = Unconditional() if num_classes is None else Labels(num_classes)
        self.sampler = object.__new__(TinySampler)
        self.lr = lr
        self.global_noise = global_noise
        self.losses = []
        self.sampled = []

    def loss(self, batch):
        x = batch["image"].float() / 127.5 - 1
        generator = None if self.global_noise else torch.Generator().manual_seed(self.global_step)
        noise = torch.randn(x.shape, generator=generator)
        return (self.denoiser(0.5 * x + 0.5 * noise, batch["label"]) - x).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)

    def sample(self, condition=None, seeds=0, *, batch_size=64):
        self.sampled += list(seeds)
        noise = torch.stack([torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds])
        condition = None if condition is None else torch.as_tensor(condition)
        torch.rand(7)  # callbacks must put the global generator back
        return self.denoiser(noise, condition).clamp(-1, 1)


class TinySampler:
    num_steps = 1

    def settings(self):
        return {"class": "TinySampler"}


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
