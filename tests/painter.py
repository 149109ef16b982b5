"""A stand-in for a model of prompts about shapes: paints what is asked for, or something else, by the seed."""

from __future__ import annotations

import numpy as np
import torch

from pixelgen.conditioner import Text
from pixelgen.data.drawing import PALETTE, paint
from pixelgen.evaluation.geneval.prompts import Prompt
from pixelgen.evaluation.geneval.shapes import shapes_prompts
from tiny_run import TinyModule, tiny_jit

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


class Prompts(Text):
    """Prompts for a network that never sees them."""

    @property
    def settings(self):
        return {"text_encoder": {}}

    def from_batch(self, batch):
        return None


class Painter(TinyModule):
    """Paints the prompt for even seeds, an empty picture for odd ones."""

    def __init__(self):
        super().__init__(denoiser=tiny_jit(None, size=32, patch_size=8))
        self.conditioner = Prompts(None)
        self.asked = []

    def sample(self, condition, seeds, *args, **options):
        self.asked += zip(condition, seeds, strict=True)
        empty = torch.full((3, 32, 32), 135, dtype=torch.uint8)
        images = [painted(PROMPTS[t]) if s % 2 == 0 else empty for t, s in zip(condition, seeds, strict=True)]
        return torch.stack(images).float() / 127.5 - 1
