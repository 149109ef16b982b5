"""Parts as a user would write them, outside of the package."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from pixelgen.conditioner import Conditioner
from pixelgen.data import ShapesData
from pixelgen.flow import Sampler, TimeSampler
from pixelgen.losses import Gate, Term
from pixelgen.models import Denoiser


class L1(Term):
    """A loss in one file: the mean absolute error of the prediction."""

    name = "l1"

    def __init__(self, weight: float = 0.5):
        self.weight = weight

    def compute(self, p):
        return (p.x_hat - p.x).abs().flatten(1).mean(1)


class Projected(nn.Module, Term):
    """A gated, perceptual loss with a parameter of its own."""

    name, gated, perceptual = "projected", True, True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = 0

    def compute(self, p):
        self.seen += len(p.x)
        return (self.scale * (p.x_hat - p.x)).square().flatten(1).mean(1)


class ShapeAndColor(Conditioner):
    """Two attributes (B, 2): number of the shape and of the colour; 10 stands for none."""

    description = "shape and colour in turn"

    def from_batch(self, batch):
        return torch.stack([batch["label"] // 10, batch["label"] % 10], dim=1)

    def null(self, condition, negative=""):
        return torch.full_like(condition, 10)

    def examples(self, number, data):
        return [[i % 4, i % 10] for i in range(number)]

    def from_words(self, classes, prompts):
        return [[int(word[0]), int(word[1])] for word in classes or ["00"]]


class Picture(Conditioner):
    """The image itself in grey, as a condition (B, 1, H, W)."""

    def from_batch(self, batch):
        return batch["image"].float().mean(1, keepdim=True) / 255

    def null(self, condition, negative=""):
        return torch.zeros_like(condition)


class Attributes(Denoiser):
    """A denoiser with `forward` alone, for the two attributes."""

    def __init__(self, input_size: int = 32):
        super().__init__(input_size)
        self.embedding = nn.Embedding(11, 3)
        self.mix = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x_t, t, condition=None):
        shift = self.embedding(condition).sum(1) + t[:, None]
        return self.mix(x_t) + shift[:, :, None, None]


class Colouring(Denoiser):
    """A denoiser with `forward` alone, for a grey picture."""

    def __init__(self, input_size: int = 32):
        super().__init__(input_size)
        self.mix = nn.Conv2d(4, 3, 1)

    def forward(self, x_t, t, condition=None):
        return self.mix(torch.cat([x_t, condition.to(x_t)], dim=1))


@dataclass(frozen=True)
class Uniform(TimeSampler):
    """Uniform times.

    Args:
        low: smallest time.
    """

    low: float = 0.0

    def __call__(self, batch_size, device=None):
        return self.low + (1 - self.low) * torch.rand(batch_size, device=device)


@dataclass(frozen=True)
class Midpoint(Sampler):
    """The midpoint rule.

    Args:
        at: where in a step the velocity is taken.
    """

    at: float = 0.5

    def solve(self, velocity, x, progress=None):
        for t, t_next in pairwise(self.times):
            x = x + (t_next - t) * velocity(x, t + self.at * (t_next - t), t)
        return x


class Few(ShapesData):
    """Drawn shapes, few of them."""

    def __init__(self, image_size: int = 32, batch_size: int = 4, seed: int = 0):
        super().__init__(image_size, batch_size, seed=seed, length=64)


@dataclass(frozen=True)
class Band(Gate):
    """Samples in a band of times pass.

    Args:
        low: smallest time that passes.
        high: largest time that passes.
    """

    low: float = 0.2
    high: float = 0.8

    def select(self, t):
        return ((t >= self.low) & (t <= self.high)).nonzero().flatten()
