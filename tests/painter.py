"""A stand-in for a model of prompts about shapes: paints what is asked for, or something else, by the seed."""

from pathlib import Path

import numpy as np
import torch

from pixelgen.data.drawing import PALETTE, paint
from pixelgen.encoders import TextEncoder
from pixelgen.evaluation.geneval.prompts import Prompt, shapes_prompts
from pixelgen.flow import Euler
from pixelgen.models import TextJiT
from pixelgen.module import PixelGen
from tiny_transformers import tiny_qwen3

EMPTY = torch.full((3, 32, 32), 135, dtype=torch.uint8)
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


class Painter(PixelGen):
    """A text model that trains as any, and paints the prompt for even seeds, an empty picture for odd ones."""

    def __init__(self):
        torch.manual_seed(0)
        sizes = {"patch_size": 16, "hidden_size": 16, "depth": 1, "num_heads": 2, "text_depth": 1, "bottleneck_dim": 4}
        denoiser = TextJiT(32, text_dim=16, text_length=12, **sizes)
        encoder = TextEncoder(str(tiny_qwen3()), max_length=12, dtype="float32")
        super().__init__(denoiser, sampler=Euler(num_steps=2, guidance=4.0), text_encoder=encoder)
        self.asked, self.losses = [], []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss

    def sample(self, condition=None, seeds=0, *args, **options):
        self.asked += zip(condition, seeds, strict=True)
        images = [painted(PROMPTS[t]) if s % 2 == 0 else EMPTY for t, s in zip(condition, seeds, strict=True)]
        return torch.stack(images).float() / 127.5 - 1


class Painted:
    """Stands for a run of a painter, at step 7."""

    published = False

    def __init__(self, folder: Path, model: PixelGen, data: dict | None = None):
        self.folder, self.path, self._model = folder, folder, model
        self.config = {"data": data or {}}

    def model(self, ema, device):
        return self._model

    def identity(self, ema):
        return {"average": "0.99", "step": 7}
