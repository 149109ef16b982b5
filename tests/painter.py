"""A stand-in for a model of prompts about shapes: paints what is asked for, or something else, by the seed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from pixelgen.data.drawing import PALETTE, paint
from pixelgen.evaluation.geneval.prompts import Prompt, shapes_prompts
from tiny_run import TinyDenoiser, TinyModule

PROMPTS = {prompt.text: prompt for prompt in shapes_prompts()}
PLACES = {
    1: [(0.5, 0.5)],
    2: [(0.25, 0.5), (0.75, 0.5)],
    3: [(0.25, 0.25), (0.75, 0.25), (0.5, 0.75)],
    4: [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)],
}
RELATED = {  # the entry referred to, then the one that stands so to it
    "left of": [(0.75, 0.5), (0.25, 0.5)],
    "right of": [(0.25, 0.5), (0.75, 0.5)],
    "above": [(0.5, 0.75), (0.5, 0.25)],
    "below": [(0.5, 0.25), (0.5, 0.75)],
}


def painted(prompt: Prompt, size: int = 32) -> torch.Tensor:
    """What a prompt asks for, uint8 (3, size, size)."""
    image = np.full((3, size, size), 135, dtype=np.float32)
    wanted = [entry for entry in prompt.include for _ in range(entry.count)]
    relation = wanted[-1].position
    places = PLACES[len(wanted)] if relation is None else RELATED[relation[0]]
    for entry, place in zip(wanted, places, strict=True):
        rgb = np.array(PALETTE[entry.color or "blue"], dtype=np.float32)
        paint(image, entry.name, rgb, place, 0.3 if len(wanted) == 1 else 0.18, 0)
    return torch.from_numpy(image.round().astype(np.uint8))


class Painter(TinyModule):
    """Paints the prompt for even seeds, an empty picture for odd ones."""

    text_encoder = SimpleNamespace(settings={"model": "painter"})

    def __init__(self):
        super().__init__(num_classes=None)
        self.denoiser = PainterDenoiser(None)
        self.noise_scale = 1.0
        self.asked = []

    def sample(self, condition, seeds, sampler=None, *, batch_size=64, size=None, negative=""):
        self.asked += zip(condition, seeds, strict=True)
        empty = torch.full((3, 32, 32), 135, dtype=torch.uint8)
        images = [painted(PROMPTS[t]) if s % 2 == 0 else empty for t, s in zip(condition, seeds, strict=True)]
        return torch.stack(images).float() / 127.5 - 1


class PainterDenoiser(TinyDenoiser):
    patch_size = 8

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.image_size = 32
