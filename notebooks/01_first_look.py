# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first look at pixelgen
#
# `make demo` has trained a small class-conditional model on drawn shapes. This notebook loads that run, samples from
# it, draws each loss term and the noise gate over time, and changes one step of training by subclassing.

# %%
import os

import matplotlib.pyplot as plt
import torch

import pixelgen
from pixelgen.data import ShapesData
from pixelgen.encoders import Backbone
from pixelgen.flow import AdamsBashforth, interpolate, to_float, to_uint8
from pixelgen.losses import FeatureDistance, NoiseGate, velocity_loss

RUN = os.environ.get("PIXELGEN_RUN", "../runs/demo")
NUM_IMAGES = int(os.environ.get("PIXELGEN_IMAGES", "40"))


def show(images, columns=10):
    """Images (N, 3, H, W) in [-1, 1] as one picture."""
    from torchvision.utils import make_grid

    grid = make_grid(to_uint8(images.cpu()), nrow=columns, padding=1)
    plt.figure(figsize=(columns, len(images) / columns))
    plt.imshow(grid.permute(1, 2, 0))
    plt.axis("off")
    plt.show()


# %% [markdown]
# ## Sample
#
# `load` rebuilds the model from the run's config and takes the averaged weights. An image depends on its seed, its
# class and the sampler, never on the batch it is made in.

# %%
model = pixelgen.load(RUN)
labels = [i % len(model.class_names) for i in range(NUM_IMAGES)]
images = model.sample(labels, seeds=0)
show(images)
[model.class_names[label] for label in labels[:10]]  # `model.sample` takes names as well

# %% [markdown]
# The same noise without guidance, and with more of it.

# %%
for guidance in (1.0, 3.0):
    show(model.sample(labels[:10], seeds=0, sampler=AdamsBashforth(num_steps=16, guidance=guidance)))

# %% [markdown]
# ## What the network sees and predicts
#
# One image at growing times t: 0 is noise, 1 the clean image. Above what goes in, below the clean image that the
# network predicts from it.

# %%
data = ShapesData(image_size=model.denoiser.image_size)
item = data.val_dataset()[0]
x = to_float(item["image"])[None].to(model.device)
times = torch.linspace(0.05, 0.95, 10, device=model.device)
noise = torch.randn(1, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(model.device)
x_t = interpolate(x.expand(10, -1, -1, -1), noise.expand(10, -1, -1, -1), times)
with torch.no_grad():
    x_hat = model.denoiser(x_t, times, torch.full((10,), int(item["label"]), device=model.device))
show(torch.cat([x_t, x_hat]).clamp(-1, 1))

# %% [markdown]
# ## Each loss term over t, and the gate
#
# Near noise the prediction is a blur of all images that are still possible. A perceptual loss would ask it to be sharp
# there, which it cannot be: the gate leaves those times out.

# %%
perceptual = FeatureDistance(Backbone(levels=(0, 1, 2)))
count = max(2, NUM_IMAGES // 4)
items = [data.val_dataset()[i] for i in range(count)]
batch = to_float(torch.stack([item["image"] for item in items])).to(model.device)
classes = torch.tensor([item["label"] for item in items], device=model.device)
grid = torch.linspace(0.02, 0.98, 13)
flow_matching, features = [], []
for t in grid:
    time = torch.full((count,), float(t), device=model.device)
    x_t = interpolate(batch, torch.randn(batch.shape, generator=torch.Generator().manual_seed(1)).to(batch), time)
    with torch.no_grad():
        x_hat = model.denoiser(x_t, time, classes)
        flow_matching.append(float(velocity_loss(x_hat, batch, x_t, time)))
        features.append(float(perceptual.to(model.device)(x_hat, batch).mean()))

fig, axes = plt.subplots(1, 3, figsize=(12, 3))
passes = [len(NoiseGate().select(t[None])) for t in grid]
density = torch.sigmoid(-0.8 + 0.8 * torch.randn(20_000))
for axis, values, title in zip(
    axes, (flow_matching, features, passes), ("flow matching", "feature distance", "gate"), strict=True
):
    axis.plot(grid, values, marker="o", drawstyle="steps-mid" if title == "gate" else "default")
    axis.set_title(title)
    axis.set_xlabel("t")
axes[2].hist(density.numpy(), bins=40, density=True, alpha=0.3, label="training times")
axes[2].legend()
plt.show()

# %% [markdown]
# ## Change one step of training
#
# Five hooks make up a step: `draw_times`, `draw_noise`, `corrupt`, `predict`, `combine`. Override one, and every
# argument of the base class stays. From the command line: `--model my_package.Uniform`.


# %%
class Uniform(pixelgen.PixelGen):
    """PixelGen with uniform training times."""

    def draw_times(self, batch_size):
        return torch.rand(batch_size)


# %%
from lightning import Trainer

mine = Uniform(model.denoiser, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4))
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = Trainer(max_steps=2, log_every_n_steps=1, accelerator="cpu", **quiet)
trainer.fit(mine, datamodule=ShapesData(image_size=model.denoiser.image_size, batch_size=8))
trainer.callback_metrics["loss/flow_matching"]
